"""What TensorBoard shows of a run that was killed and taken up again: every step once."""

import shutil
import struct

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from descargan_tf.training.writer import Writer

PICTURE = np.full((1, 4, 4, 1), 0.5, np.float32)


def write(run_dir, start, stop, value):
    """A process's rounds; it does not live to close anything."""
    writer = Writer(run_dir, start)
    for step in range(start + 1, stop + 1):
        writer.scalars("train", step, {"loss": value + step})
        if step % 5 == 0:
            writer.scalars("validate", step, {"dice": value})
            writer.images(step, {"input": PICTURE})
    return writer


def opened(run_dir, group, by=plugin_event_accumulator):
    """TensorBoard's own reader; the other is of those who read event files in Python."""
    return by.EventAccumulator(str(run_dir / group), size_guidance={"tensors": 0})


def shown(board, tag):
    board.Reload()
    return [(event.step, make_ndarray(event.tensor_proto)) for event in board.Tensors(tag)]


def killed(run_dir):
    """Trained to step 35, with a checkpoint of step 20; the process was killed amid a record."""
    write(run_dir, 0, 35, 0)
    for path in run_dir.glob("*/events*"):
        with open(path, "ab") as file:
            file.write(struct.pack("<Q", 1000) + b"half")
    return run_dir


def test_a_killed_run_shows_every_step_once(tmp_path):
    write(killed(tmp_path), 20, 40, 1000)
    for by in (plugin_event_accumulator, event_accumulator):
        found = shown(opened(tmp_path, "train", by), "loss")
        assert [step for step, _ in found] == list(range(1, 41))
        assert [float(value) for _, value in found] == [*range(1, 21), *range(1021, 1041)]
    validate = opened(tmp_path, "validate")
    assert [step for step, _ in shown(validate, "dice")] == list(range(5, 41, 5))
    assert [step for step, _ in shown(validate, "input")] == list(range(5, 41, 5))


def test_a_tensorboard_that_is_open_meanwhile_shows_every_step_once(tmp_path):
    board = opened(killed(tmp_path), "train")
    assert len(shown(board, "loss")) == 35
    write(tmp_path, 20, 40, 1000)
    assert [step for step, _ in shown(board, "loss")] == list(range(1, 41))


def test_killed_again_and_again(tmp_path):
    for stop in (35, 28, 33):
        write(tmp_path, 0 if stop == 35 else 20, stop, stop)
    found = shown(opened(tmp_path, "train"), "loss")
    assert [step for step, _ in found] == list(range(1, 34))
    assert float(found[25][1]) == 33 + 26


def test_killed_before_the_first_checkpoint(tmp_path):
    write(tmp_path, 0, 8, 0)
    write(tmp_path, 0, 6, 100)
    assert [(step, float(value)) for step, value in shown(opened(tmp_path, "train"), "loss")] == [
        (step, 100 + step) for step in range(1, 7)
    ]


def test_what_ended_in_order_is_not_touched(tmp_path):
    write(tmp_path, 0, 20, 0).close()
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.glob("*/events*")}
    write(tmp_path, 20, 25, 0).close()
    assert len(before) == 2
    assert all((path.read_bytes(), path.stat().st_ino) == was for path, was in before.items())
    assert len(shown(opened(tmp_path, "train"), "loss")) == 25


def test_what_cannot_be_cut_back_stays_whole(tmp_path, monkeypatch):
    killed(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/events*")}
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: pytest.fail("not this far"))
    monkeypatch.setattr("descargan_tf.training.writer.Writer._keep_until", lambda *_: None)
    monkeypatch.setattr("builtins.open", full(open))
    with pytest.raises(OSError, match="No space left"):
        Writer(tmp_path, 20)
    assert all(path.read_bytes() == was for path, was in before.items())


def full(real):
    def opening(path, mode="r", *args, **kwargs):
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return real(path, mode, *args, **kwargs)

    return opening


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    killed(tmp_path)
    (tmp_path / "train" / "notes.txt").write_text("mine")
    shutil.copy(tmp_path / "metrics.jsonl", tmp_path / "train" / "events.txt")
    write(tmp_path, 20, 21, 0)
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "train" / "events.txt").exists()
