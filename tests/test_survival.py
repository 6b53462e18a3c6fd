"""A training that is killed with SIGKILL, at the worst moments too, ends as one that is left alone: to the byte.

The trainings are of a toy; benchmarks/survival.py kills the program itself, at random, with every kind of method.
"""

import os
import subprocess

from lives import STEPS
from program_starts import ROOT, start


def live(folder, moment):
    """A life, killed where it stands still; its last word."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = start(ROOT, folder, *moment.split(), module="lives", env=environment, stderr=subprocess.DEVNULL)
    with process:
        for line in process.stdout:
            if line == "standing\n":
                process.kill()
    return line.strip()


def test_three_kills_change_nothing(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert live(straight, "nowhere 0") == "done"
    for moment, left in (
        ("round 5", {"3", "best"}),
        ("saving 6", {"3", "best", "6.partial"}),
        ("renaming best", {"3", "best.old", "best.partial"}),
    ):
        assert live(killed, moment) == "standing", moment
        assert {path.name for path in (killed / "checkpoints").iterdir()} == left, moment
    assert live(killed, "nowhere 0") == "done"
    assert (killed / "train.log").read_text().count("resuming at step 3") == 3
    names = [path.relative_to(straight) for path in straight.glob("checkpoints/*/state.npz")]
    assert {name.parent.name for name in names} == {"9", str(STEPS), "best"}
    for name in (*names, "metrics.jsonl"):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    assert {path.name for path in (killed / "checkpoints").iterdir()} == {"9", str(STEPS), "best"}
