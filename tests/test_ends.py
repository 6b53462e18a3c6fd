"""How runs of the program end: by signals, without anybody to read what they print, beside another of the same run.

One training is real, in processes of its own; so is one prediction. The rest is cut short where a signal would arrive.
"""

import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import signal
import time
import types
from pathlib import Path

import pytest
from image_folders import make_data_set
from program_starts import start
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from descargan_tf import run_folder, signals
from descargan_tf.benchmark.plan import Plan
from descargan_tf.commands import benchmark as benchmark_command
from descargan_tf.commands import export as export_command
from descargan_tf.data import generation
from descargan_tf.data.dataset import Dataset
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.evaluation import figures
from descargan_tf.export import exporter
from descargan_tf.export.embedded import server as server_module
from descargan_tf.main import main
from descargan_tf.run_folder import configure
from descargan_tf.training import checkpoint
from descargan_tf.types import CLASS_NAMES

ENDLESS = 240  # seconds after which a process is taken to hang
RUN = "runs/it's mine"
FLAGS = f"""# A classifier of a few weights
--dataset=folders
--data_dir=own data
--run_dir={RUN}
--image_size=64
--batch_size=4
--method=dcls
--saliency=gradcam
--discriminator_filters=2
--average_decay=0.9
--log_every_steps=1
--validate_every_steps=1000000
--checkpoint_every_steps=5
--max_steps=1000000
"""
EVERY = pytest.mark.parametrize("number", signals.ENDINGS, ids=signals.name_of)

pytestmark = pytest.mark.usefixtures("one_replica", "shallow", "eager_rounds", "graphs_as_traced")


def wait_for(condition, process):
    for _ in range(20 * ENDLESS):
        if process.poll() is not None or condition():
            return
        time.sleep(0.05)


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work place")
    (folder / "tiny.flags").write_text(FLAGS)
    make_data_set(folder / "own data", per_class=3)
    return folder


@pytest.fixture(scope="module")
def hung_up(workplace):
    """A training that is killed at once, taken up with nobody to read its output, asked for twice, and hung up on."""
    metrics, checkpoints = workplace / RUN / "metrics.jsonl", workplace / RUN / "checkpoints"
    killed = start(workplace, "--flagfile=tiny.flags")
    wait_for(lambda: len(steps_in(metrics)) >= 6, killed)
    killed.kill()
    killed.communicate()
    saved, logged = checkpoint.steps(checkpoints)[-1], steps_in(metrics)[-1]

    reading, writing = os.pipe()
    os.close(reading)
    process = start(workplace, "--flagfile=tiny.flags", stdout=writing)
    os.close(writing)
    wait_for(lambda: f"resuming at step {saved}" in (workplace / RUN / "train.log").read_text(), process)
    wait_for(lambda: steps_in(metrics)[-1] > logged, process)
    with contextlib.chdir(workplace), contextlib.redirect_stderr(io.StringIO()) as second:
        refused = main(["main", "--flagfile=tiny.flags"])
    still_trains = process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)  # as a terminal and its shell do
    _, err = process.communicate(timeout=ENDLESS)
    return {
        "saved": saved,
        "logged": logged,
        "status": process.returncode,
        "err": err,
        "second": (refused, second.getvalue()),
        "still_trains": still_trains,
        "pid": process.pid,
    }


@pytest.fixture
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture(scope="module")
def trained(workplace, hung_up):
    """The same run to its end, in this process; what it prints."""
    last = checkpoint.steps(workplace / RUN / "checkpoints")[-1] + 1
    process = start(workplace, "--flagfile=tiny.flags", f"--max_steps={last}")
    out, err = process.communicate(timeout=ENDLESS)
    assert process.returncode == 0, err
    return last, out


# ---- training


def test_a_closed_terminal_saves_and_ends_with_129(hung_up, workplace):
    step = checkpoint.steps(workplace / RUN / "checkpoints")[-1]
    assert hung_up["status"] == 129
    assert hung_up["err"].splitlines()[-1] == f"SIGHUP at step {step}: saved; run the same command to go on"
    assert "Traceback" not in hung_up["err"]
    assert step >= hung_up["logged"]


def test_output_that_nobody_reads_does_not_end_a_training(hung_up):
    """It went on for rounds after `resuming at` could not be written."""
    assert hung_up["still_trains"]
    assert "Broken pipe" not in hung_up["err"]


def test_the_same_run_started_twice_is_refused(hung_up):
    status, err = hung_up["second"]
    assert status == 2
    assert err.splitlines()[-1].startswith(f"error: --run_dir={RUN} is in use: process {hung_up['pid']} on "), err
    assert "--mode=evaluate and predict take what it has saved" in err


def test_no_step_is_there_twice_after_a_kill(hung_up, trained, workplace):
    assert hung_up["saved"] < hung_up["logged"]
    board = EventAccumulator(str(workplace / RUN / "train"), size_guidance={"tensors": 0})
    board.Reload()
    tag = next(tag for tag in board.Tags()["tensors"] if tag.endswith("/total"))
    assert [event.step for event in board.Tensors(tag)] == list(range(1, trained[0] + 1))
    lines = map(json.loads, (workplace / RUN / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["group"] == "train"] == list(range(1, trained[0] + 1))


def test_a_running_training_can_be_asked(trained, inside, capsys):
    """As it holds the lock and no other process needs it."""
    with run_folder.locks.alone_in(Path(RUN), "no"):
        source = "own data/test/diseased"
        assert main(["main", "--mode=predict", f"--run_dir={RUN}", f"--input={source}", "--output_dir=meanwhile"]) == 0
    assert (inside / "meanwhile" / "predictions.csv").exists()


@EVERY
def test_before_the_first_round(inside, monkeypatch, capsys, number):
    monkeypatch.setattr(Dataset, "check", lambda *_, **__: signal.raise_signal(number))
    assert main(["main", "--flagfile=tiny.flags", "--run_dir=new"]) == 128 + number
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped; nothing was trained yet\n"
    assert not Path("new").exists()


# ---- prediction


def test_a_prediction_of_many_images_leaves_a_table_of_those_done(trained, workplace):
    many = workplace / "many"
    many.mkdir()
    source = workplace / "own data" / "test" / "diseased" / "0.png"
    for number in range(3000):
        os.link(source, many / f"{number:04}.png")
    process = start(workplace, "--mode=predict", f"--run_dir={RUN}", "--input=many", "--output_dir=out")
    wait_for(lambda: len(list((workplace / "out").glob("*_overlay.png"))) > 100, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=ENDLESS)
    assert process.returncode == 130
    with open(workplace / "out" / "predictions.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert 100 <= len(rows) < 3000
    assert err.splitlines()[-1] == f"SIGINT: stopped; {len(rows)} of 3000 images done: out/predictions.csv"
    assert "Traceback" not in err
    assert len(list((workplace / "out").glob("*_overlay.png"))) - len(rows) in (0, 1)
    assert not list((workplace / "out").glob(".*"))
    shutil.rmtree(many)


# ---- the other modes


@EVERY
@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("evaluate", "no report was written"),
        ("predict", "nothing was predicted"),
        ("export", "nothing was published"),
        ("publish", "nothing was published"),
    ],
)
def test_what_reads_weights(trained, inside, monkeypatch, capsys, mode, left, number):
    monkeypatch.setattr(run_folder, "restore", lambda *_: signal.raise_signal(number))
    places = ["--input=own data/test/diseased", "--output_dir=other", "--export_dir=other", "--publish_dir=other"]
    assert main(["main", f"--mode={mode}", f"--run_dir={RUN}", *places]) == 128 + number
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped; {left}\n"
    assert not Path("other").exists()


@EVERY
def test_check_data(inside, monkeypatch, capsys, number):
    monkeypatch.setattr(Dataset, "check", lambda *_, **__: signal.raise_signal(number))
    assert main(["main", "--mode=check_data", "--flagfile=tiny.flags"]) == 128 + number
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped; not everything was checked\n"


@pytest.mark.parametrize(("number", "num_workers"), [*((number, 1) for number in signals.ENDINGS), (signal.SIGINT, 2)])
def test_generate_leaves_nothing(tmp_path, number, num_workers):
    with pytest.raises(signals.Stopped) as caught, signals.raised():
        generation.generate(
            tmp_path / "data",
            SyntheticSettings(0, 64, 60, 1, 1),
            num_workers,
            progress=lambda *_: signal.raise_signal(number),
        )
    name = signals.name_of(number)
    assert str(caught.value) == f"{name}: stopped; nothing was left in --data_dir={tmp_path / 'data'}"
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_is_being_written_is_written(trained, inside, monkeypatch, capsys):
    def interrupted(folder, *_):
        signal.raise_signal(signal.SIGTERM)
        folder.mkdir()
        return []

    monkeypatch.setattr(figures, "draw_all", interrupted)
    assert main(["main", "--mode=evaluate", f"--run_dir={RUN}"]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "SIGTERM: stopped; the report is written"
    report = json.loads((Path(RUN) / "report.json").read_text())
    assert all((Path(RUN) / name).exists() for name in ("report.md", "report.html", "figures/samples.npz"))
    assert report["checkpoint_step"] in (trained[0], *range(trained[0]))


@pytest.fixture
def fake_server(monkeypatch):
    class Fake:
        starts = staticmethod(lambda: None)
        stops = staticmethod(lambda: None)
        url = "http://127.0.0.1:1"
        manager = type("Manager", (), {"names": ["m"]})

        def __init__(self, settings):
            pass

        def __enter__(self):
            self.starts()
            return self

        def __exit__(self, *_):
            self.stops()

    monkeypatch.setattr(server_module, "EmbeddedServer", Fake)
    return Fake


@EVERY
def test_a_server_ends_when_it_is_asked_to(fake_server, monkeypatch, capsys, number):
    monkeypatch.setattr(server_module, "time", types.SimpleNamespace(sleep=lambda _: signal.raise_signal(number)))
    stopped = []
    fake_server.stops = staticmethod(lambda: (signal.raise_signal(number), stopped.append(1)))  # the twin of a SIGHUP
    assert server_module.main(["server", "--model_base_path=none"]) == 0
    assert "stopping: answering what is at work" in capsys.readouterr().out
    assert stopped == [1]


@EVERY
def test_a_server_that_is_ended_while_it_loads(fake_server, capsys, number):
    fake_server.starts = staticmethod(lambda: signal.raise_signal(number))
    assert server_module.main(["server", "--model_base_path=none"]) == 128 + number
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped; it had not begun to serve\n"


# ---- what is printed


def pasted(out, name):
    """A printed command, as a shell would take it apart."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{name}:")]
    words = shlex.split(line.partition(":")[2])
    assert words[:3] == ["python", "-m", "descargan_tf.main"]
    return ["main", *words[3:]]


@pytest.mark.usefixtures("no_pictures")
def test_each_step_names_the_next_one(trained, inside, capsys):
    assert main(pasted(trained[1], "evaluate")) == 0
    out = capsys.readouterr().out
    assert main(pasted(out, "predict")) == 0
    assert "3 of 3 images done" in capsys.readouterr().out
    exporting = configure(pasted(out, "export"))
    assert (exporting.mode, exporting.run_dir) == ("export", RUN)


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("export_dir", [None, "other place"])
def test_export_names_the_server_that_the_user_has(trained, inside, monkeypatch, capsys, installed, export_dir):
    monkeypatch.setattr(exporter, "export_version", lambda base, *_: base / "1")
    monkeypatch.setattr(export_command.shutil, "which", lambda name: f"/bin/{name}" if installed else None)
    given = [f"--export_dir={export_dir}"] if export_dir else []
    assert main(["main", "--mode=export", f"--run_dir={RUN}", *given]) == 0
    out = capsys.readouterr().out
    serving = configure(pasted(out, "serve"))
    assert (serving.mode, serving.run_dir, serving.export_dir) == ("serve", RUN, export_dir or "")
    assert ("tensorflow_model_server" in out) == installed


@pytest.mark.parametrize(
    ("per_class", "removed", "said"), [(6, [], "6 of each class"), (6, ["0", "3"], "6 healthy + 4 d")]
)
def test_a_benchmark_counts_the_images_that_were_read(tmp_path, per_class, removed, said):
    make_data_set(tmp_path / "d", per_class=per_class)
    for name in removed:
        (tmp_path / "d" / "train" / "diseased" / f"{name}.png").unlink()
    (tmp_path / "d" / "train" / "healthy" / "notes.txt").touch()
    config = configure(["main", "--dataset=folders", f"--data_dir={tmp_path / 'd'}", "--image_size=64", "--run_dir=r"])
    facts = benchmark_command._facts(config, [Plan("a", "a.flags", config, {}, CLASS_NAMES, ())], {})
    assert facts["Images"].startswith(f"folders, 64x64, {said}")


def test_a_benchmark_counts_what_was_generated(tmp_path):
    config = configure(["main", "--dataset=synthetic", "--num_train=7", "--run_dir=r"])
    facts = benchmark_command._facts(config, [Plan("a", "a.flags", config, {}, CLASS_NAMES, ())], {})
    assert "7 of each class to train on" in facts["Images"]
