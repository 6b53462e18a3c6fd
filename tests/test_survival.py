"""A training that is killed with SIGKILL, at the worst moments too, ends as one that is left alone: to the byte.

The trainings are of a toy; benchmarks/survival.py kills the program itself, at random, with every kind of method.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lives import STEPS

HERE = Path(__file__).resolve().parent


@pytest.fixture
def lives():
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, HERE / "lives.py"]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.stdin.close()


def live(lives, folder, moment):
    """A life, killed where it stands still."""
    print(folder, moment, file=lives.stdin, flush=True)
    child, seen = None, []
    for line in lives.stdout:
        word = line.strip()
        if word.isdigit():
            child = int(word)
        elif word == "standing":
            os.kill(child, signal.SIGKILL)
        elif word == "over":
            return seen
        seen.append(word)
    raise AssertionError(seen)


def test_three_kills_change_nothing(lives, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert "done" in live(lives, straight, "nowhere 0")
    for moment, left in (
        ("round 5", {"3", "best"}),
        ("saving 6", {"3", "best", "6.partial"}),
        ("renaming best", {"3", "best.old", "best.partial"}),
    ):
        assert "standing" in live(lives, killed, moment), moment
        assert {path.name for path in (killed / "checkpoints").iterdir()} == left, moment
    assert "done" in live(lives, killed, "nowhere 0")
    assert (killed / "train.log").read_text().count("resuming at step 3") == 3
    names = [path.relative_to(straight) for path in straight.glob("checkpoints/*/state.npz")]
    assert {name.parent.name for name in names} == {"9", str(STEPS), "best"}
    for name in (*names, "metrics.jsonl"):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    assert {path.name for path in (killed / "checkpoints").iterdir()} == {"9", str(STEPS), "best"}
