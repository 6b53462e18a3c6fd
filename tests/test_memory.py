"""Data that do not fit are refused before anything of them is read."""

import gc
import itertools
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from image_folders import SIZE, make_data_set

from descargan_tf import methods, run_folder
from descargan_tf.data import memory, reading
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.folders import check_data, load_split
from descargan_tf.data.images import write_npy
from descargan_tf.data.listing import list_data_set
from descargan_tf.errors import UserError
from descargan_tf.run_folder import configure

IMAGE = SIZE**2 * 4  # bytes as float32


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def nothing_is_read(monkeypatch):
    def fail(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(reading, "read_image", fail)


@pytest.mark.usefixtures("nothing_is_read")
def test_what_does_not_fit_is_refused_with_the_size_that_is_needed(tmp_path, monkeypatch):
    make_data_set(tmp_path, per_class=100)
    monkeypatch.setattr(memory, "free_bytes", lambda: 5_000_000)
    with pytest.raises(UserError) as caught:
        check_data(tmp_path, SIZE, in_memory={"train": 2, "validate": 1})
    assert str(caught.value) == (
        f"data folder {tmp_path}: 200 of train, 200 of validate images of 64x64 need {600 * IMAGE / 1e6:.0f} MB of "
        "memory at a time, and 5 MB are free; use fewer or smaller images, or a machine with more memory"
    )
    monkeypatch.setattr(memory, "free_bytes", lambda: 200 * IMAGE - 1)
    with pytest.raises(UserError, match="200 of test images of 64x64 need 3 MB of memory"):
        load_split(tmp_path, "test", SIZE, (0, 255))


def test_what_would_not_fit_is_not_drawn(tmp_path, monkeypatch):
    given = ("--image_size=64", "--num_train=1000", "--num_validate=9", "--num_test=9", f"--data_dir={tmp_path}/data")
    data = dataset_of(configure(["main", "--dataset=synthetic_chest", f"--run_dir={tmp_path}/run", *given]))
    monkeypatch.setattr(memory, "free_bytes", lambda: 5_000_000)
    with pytest.raises(UserError) as caught:
        data.check(in_memory={"train": 2, "validate": 1})
    assert str(caught.value) == (
        f"data folder {tmp_path}/data: 2,000 of train, 18 of validate images of 64x64 need "
        f"{(3000 * 2 + 27) * IMAGE / 1e6:.0f} MB of memory at a time, and 5 MB are free; use fewer or smaller images, "
        "or a machine with more memory"
    )
    assert not list(tmp_path.iterdir())


def test_what_fits_is_read_and_a_check_alone_needs_little(tmp_path, monkeypatch):
    make_data_set(tmp_path, per_class=2)
    monkeypatch.setattr(memory, "free_bytes", lambda: 4 * IMAGE)
    assert len(load_split(tmp_path, "test", SIZE, (0, 255)).images) == 4
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    check_data(tmp_path, SIZE)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)  # nobody says
    check_data(tmp_path, SIZE, in_memory={"train": 1e9})


def test_what_is_kept_of_variables_goes_with_them(monkeypatch):
    """40 KB of each were kept: of two thousand, 80 MB. A process that exports, or serves a notebook, builds as many."""
    numbers = itertools.count()
    config = configure(["main", "--dataset=synthetic", "--run_dir=none"])
    monkeypatch.setattr(
        methods, "build", lambda *_: [tf.Variable(0.0, name=f"variable_{next(numbers)}") for _ in range(200)]
    )
    run_folder.build_method(config)
    before = resident()
    for _ in range(10):
        run_folder.build_method(config)
    assert resident() - before < 20e6


def test_a_system_without_limits_sets_none(monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    assert memory._of_limit() is None


def test_ground_truth_counts_for_the_diseased(tmp_path):
    make_data_set(tmp_path, per_class=3)
    (tmp_path / "test" / "ground_truth").mkdir()
    for index in range(3):
        write_npy(tmp_path / "test" / "ground_truth" / f"{index}.npy", reading.np.zeros((SIZE, SIZE), "f"))
    listing = list_data_set(tmp_path, ("train", "test"))
    assert memory.needed(listing, {"train": 2, "test": 1}, SIZE) == (2 * 6 + 6 + 3) * IMAGE


def test_the_containers_limit_counts_without_its_cache(tmp_path, monkeypatch):
    for version, names in (
        ("2", ("memory.max", "memory.current")),
        ("1", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        folder = tmp_path / version
        folder.mkdir()
        for name, value in zip(names, (1000, 900), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 50\ntotal_inactive_file 50\n")
    monkeypatch.setattr(memory, "_CGROUP_2", tmp_path / "2")
    monkeypatch.setattr(memory, "_CGROUP_1", tmp_path / "1")
    assert memory.free_bytes() == 150
    (tmp_path / "2" / "memory.max").write_text("max\n")  # no limit, or the older version's
    assert memory.free_bytes() == 150
    monkeypatch.setattr(memory, "_CGROUP_1", tmp_path / "none")
    assert memory.free_bytes() != 150


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_process_own_limit_counts(kind):
    code = "from descargan_tf.data import memory; print(memory.free_bytes(), memory.limit_of_process())"
    limit = 2**31
    found = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(getattr(resource, kind), (limit, limit)),
        env={"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    free, said = found.stdout.split(" ", 1)
    assert 0 < int(free) < limit
    assert said.startswith(
        f"this process may take {int(free) / 1e9:.1f} GB more memory (ulimit -v, ulimit -d): should "
    )
