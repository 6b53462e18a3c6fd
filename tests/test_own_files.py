"""People's own folders and names, the whole way: training, evaluation, prediction, and what is refused."""

import csv
import errno
import json
import os
import shutil

import numpy as np
import pytest
from image_folders import SIZE, make_data_set, picture

import descargan_tf
from descargan_tf.commands import COMMANDS
from descargan_tf.data.images import write_npy, write_png
from descargan_tf.evaluation import figures
from descargan_tf.export.embedded.servable import Servable
from descargan_tf.main import main
from descargan_tf.types import SPLITS

DATA, RUN = (os.fsdecode(name) for name in (b"data/D\xff", b"runs/R\xfe"))
LONG = "L" * 210
STEMS = (os.fsdecode(b"M\xfc"), LONG, "a\nb")
SHOWN = (r"M\xfc", LONG, r"a\x0ab")  # in tables
FLAGS = (
    "--dataset=folders",
    "--image_size=64",
    "--batch_size=4",
    "--method=vagan",
    "--generator_filters=2",
    "--discriminator_filters=2",
    "--critic_updates=1",
    "--validate_every_steps=1000",
    "--checkpoint_every_steps=1000",
    "--max_steps=1",
    "--decay_steps=1",
)

pytestmark = pytest.mark.usefixtures("one_replica", "shallow", "eager_rounds", "graphs_as_traced", "forked")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data whose names are no text, and a run of one round on them."""
    place = tmp_path_factory.mktemp("place")
    root = make_data_set(place / DATA, per_class=3)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[5:20, 5:20] = 255
    for split in SPLITS:
        (root / split / "ground_truth").mkdir()
        for index, stem in enumerate(STEMS):
            write_png(root / split / "ground_truth" / f"{stem}.png", mask)
            (root / split / "diseased" / f"{index}.png").rename(root / split / "diseased" / f"{stem}.png")
    before = os.getcwd()
    os.chdir(place)
    try:
        assert main(["main", *FLAGS, f"--data_dir={DATA}", f"--run_dir={RUN}"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def refused(inside, capfd):
    def run(*arguments):
        capfd.readouterr()
        assert main(["main", *arguments]) == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        return line

    return run


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_evaluation_names_each_image(inside, monkeypatch):
    def draw_what_shows_names(folder, prediction, split, _):
        return [figures.figure_samples(folder / "samples.png", prediction, split)]

    monkeypatch.setattr(figures, "draw_all", draw_what_shows_names)
    assert main(["main", "--mode=evaluate", f"--run_dir={RUN}"]) == 0
    names = [row["name"] for row in rows_of(inside / RUN / "per_image.csv")]
    assert names[3:] == sorted((f"test/diseased/{name}.png" for name in SHOWN), key=names.index)
    assert len(set(names)) == 6
    assert json.loads((inside / RUN / "report.json").read_text())["config"]["data_dir"] == DATA
    for page in ("report.html", "report.md"):
        assert len((inside / RUN / page).read_text(encoding="utf-8")) > 1000


def test_prediction_names_each_file_and_its_results(inside, capfdbinary):
    assert main(["main", "--mode=predict", f"--input={DATA}/test/diseased", f"--run_dir={RUN}"]) == 0
    assert {row["file"] for row in rows_of(inside / RUN / "predictions" / "predictions.csv")} == {
        f"{name}.png" for name in SHOWN
    }
    written = os.listdir(os.fsencode(inside / RUN / "predictions"))
    assert {os.fsencode(f"{stem}{end}") for stem in STEMS for end in ("_map.npy", "_healthy.npy", "_overlay.png")} == {
        name for name in written if name != b"predictions.csv"
    }
    assert os.fsencode(f"{RUN}/predictions/predictions.csv") in capfdbinary.readouterr().out  # can be pasted


def test_an_export_is_written_and_read_where_a_name_is_no_text(inside, capfdbinary):
    assert main(["main", "--mode=export", f"--run_dir={RUN}"]) == 0  # and verified by another process
    base = inside / RUN / "export"
    assert os.fsencode(f"{RUN}/export/1") in capfdbinary.readouterr().out  # can be pasted
    assert [path.name for path in base.iterdir()] == ["1"]
    image = np.stack([picture(80), picture(81)])
    expected = descargan_tf.load(RUN).predict(image)["anomaly_map"]
    np.testing.assert_allclose(descargan_tf.load(base).predict(image)["anomaly_map"], expected, atol=1e-4)
    served = Servable("m", 1, base / "1")  # runs the warm-up requests
    assert "serving_default" in served.signatures
    served.close()


def test_a_run_is_taken_up_with_what_nobody_reads_and_not_with_other_images(inside, refused):
    data, run = "data/copy", "runs/copy"
    shutil.copytree(inside / DATA, inside / data)
    shutil.copytree(inside / RUN, inside / run)
    shutil.copytree(inside / RUN, inside / data / "run")
    for junk in ("train/.DS_Store", "train/healthy/Thumbs.db", "test/diseased/._x.png"):
        (inside / data / junk).write_bytes(b"junk")
    (inside / "link").symlink_to(data)
    same = (*FLAGS, "--data_dir=link", f"--run_dir={run}")
    assert main(["main", *same]) == 0
    write_png(inside / data / "train" / "healthy" / "new.png", picture(70))
    write_png(inside / data / "validate" / "healthy" / "1.png", picture(71))
    assert (
        "was trained on other data than --data_dir=link holds: 1 file added (train/healthy/new.png), 1 file changed "
        "(validate/healthy/1.png). Give the same data, or name another folder for the run."
    ) in refused(*same)


def test_results_among_the_inputs_are_refused_before_anything_is_done(inside, refused):
    (inside / "among").mkdir()
    for name in ("a.npy", "a_map.npy"):
        write_npy(inside / "among" / name, np.zeros((SIZE, SIZE), np.float32))
    for given, output in (("among", "among"), ("among/a.npy", "among/../among"), ("among", f"{inside}/among")):
        line = refused("--mode=predict", f"--run_dir={RUN}", f"--input={given}", f"--output_dir={output}")
        assert f"--output_dir={output} is the folder of the input among/a" in line
    assert sorted(os.listdir("among")) == ["a.npy", "a_map.npy"]


@pytest.mark.parametrize("given", ["data/none", f"data/../{DATA}"])
def test_a_run_in_the_folder_of_its_data_is_refused(refused, given):
    line = refused(*FLAGS, f"--data_dir={given}", f"--run_dir=./{given}")
    assert line.endswith(" is the folder of the data, --data_dir: name another folder.")


def test_what_the_system_refuses_is_one_line(monkeypatch, refused):
    def refuse(config):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/tiny/checkpoints")

    monkeypatch.setitem(COMMANDS, "check_data", refuse)
    line = refused("--mode=check_data", *FLAGS, f"--data_dir={DATA}")
    assert line == "error: runs/tiny/checkpoints: Permission denied"
