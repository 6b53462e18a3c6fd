"""The synthetic data set on disk: whole or not there, and what its manifest is held against."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from descargan_tf.data import generation
from descargan_tf.data.synthetic import SyntheticSettings
from descargan_tf.errors import UserError


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, synthetic_data, kept_processes):
    folder, settings = synthetic_data
    generation.generate(tmp_path / "two", settings, num_workers=2)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_classes_share_no_base_image(synthetic_data):
    folder, settings = synthetic_data
    for split in ("train", "validate", "test"):
        healthy = {p.stem for p in (folder / split / "healthy").iterdir()}
        diseased = {p.stem for p in (folder / split / "diseased").iterdir()}
        assert len(healthy) == len(diseased) == settings.count(split)
        assert not healthy & diseased
        assert {p.stem for p in (folder / split / "ground_truth").iterdir()} == diseased


def test_other_settings_are_refused_by_name(synthetic_data):
    folder, settings = synthetic_data
    manifest = generation.read_manifest(folder)
    generation.check_settings(folder, manifest, settings)
    generation.verify_checksums(folder, manifest)
    with pytest.raises(UserError, match=r"--data_seed is 3 there and 4 here; --num_test is 6 there and 7 here"):
        generation.check_settings(folder, manifest, SyntheticSettings(4, 64, 12, 6, 7))


def test_a_manifest_leads_nowhere_else(tmp_path):
    settings = SyntheticSettings(0, 64, 1, 1, 1)
    manifest = generation.generate(tmp_path / "d", settings, num_workers=1)
    (tmp_path / "d" / "link.npy").symlink_to("/etc/passwd")
    for name in ("../secret.npy", "/etc/passwd", "link.npy"):
        led = {**manifest, "sha256": {**manifest["sha256"], name: ""}}
        with pytest.raises(UserError, match=f"names '{name}', which leads out of --data_dir={tmp_path / 'd'}"):
            generation.check_settings(tmp_path / "d", led, settings)


def test_missing_and_damaged_files_are_found(tmp_path):
    settings = SyntheticSettings(0, 64, 2, 1, 1)
    generation.generate(tmp_path / "d", settings, num_workers=1)
    manifest = generation.read_manifest(tmp_path / "d")
    file = tmp_path / "d/train/healthy/00000.npy"
    np.save(file, np.zeros((64, 64), np.float32))
    with pytest.raises(UserError, match=r"train/healthy/00000\.npy"):
        generation.verify_checksums(tmp_path / "d", manifest)
    for cut in (200, 0):
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(UserError, match=r"1 files of .* are not what was generated: train/healthy/00000\.npy"):
            generation.verify_checksums(tmp_path / "d", manifest)
    file.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its 12 files, train/healthy/00000\.npy"):
        generation.check_settings(tmp_path / "d", manifest, settings)
    (tmp_path / "d/manifest.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(UserError, match=r"manifest.json is not a manifest"):
        generation.read_manifest(tmp_path / "d")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(UserError, match="already holds something"):
        generation.generate(tmp_path / "mine", SyntheticSettings(0, 64, 1, 1, 1))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["file"]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


@pytest.mark.skipif(sys.platform != "linux", reason="finds child processes in /proc")
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_program(tmp_path, ended_by):
    process = subprocess.Popen([sys.executable, "-c", program(tmp_path / "data", num_workers=2)], cwd=os.getcwd())
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("data.partial/train/healthy/*.npy"))) < 40:  # more than one worker's task
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) >= 2
    process.send_signal(ended_by)
    process.wait()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers go on without their program"
        time.sleep(0.05)
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    write_bytes, written = Path.write_bytes, []

    def fill(path, content):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(UserError) as caught:
        generation.generate(tmp_path / "data", SyntheticSettings(0, 64, 4, 1, 1), num_workers=1)
    assert str(caught.value) == (
        f"the data set could not be written to --data_dir={tmp_path / 'data'}: No space left on device. Nothing was "
        "left behind; free space or name another folder."
    )
    assert len(written) == 5
    assert not list(tmp_path.iterdir())


def test_what_the_disk_cannot_hold_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(generation.shutil, "disk_usage", lambda folder: Usage(free=10**9) if folder == tmp_path else 0)
    with pytest.raises(UserError) as caught:
        generation.generate(tmp_path / "a" / "data", SyntheticSettings(0, 64, 50_000, 10_000, 500))
    assert str(caught.value) == (
        f"--data_dir={tmp_path}/a/data: 181,500 files of 64x64 need 3.0 GB, and 1.0 GB are free there; draw fewer "
        "(--num_train, --num_validate, --num_test) or smaller ones, or name a folder elsewhere"
    )
    assert not list(tmp_path.iterdir())


class Usage(NamedTuple):
    """Of a disk."""

    free: int


def program(target, num_workers):
    """A program that draws more than any test waits for."""
    return (
        "from descargan_tf.data.generation import *\n"
        f"generate({str(target)!r}, SyntheticSettings(0, 64, 5000, 1, 1), num_workers={num_workers})"
    )


def test_a_killed_generation_leaves_nothing_that_passes_for_whole(tmp_path):
    target = tmp_path / "data"
    process = subprocess.Popen([sys.executable, "-c", program(target, num_workers=1)], cwd=os.getcwd())
    partial = tmp_path / "data.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("train/healthy/*.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # While it lives, a second generation keeps its hands off.
    with pytest.raises(UserError, match=f"process {process.pid} on .* is generating"):
        generation.generate(target, SyntheticSettings(0, 64, 1, 1, 1), num_workers=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    generation.generate(target, SyntheticSettings(0, 64, 1, 1, 1), num_workers=1)
    assert len(list((target / "train/healthy").iterdir())) == 1
    assert not partial.exists()
