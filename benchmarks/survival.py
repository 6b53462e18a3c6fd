"""Trainings that are killed with SIGKILL, time and again, beside one that is left alone: python benchmarks/survival.py

Trains a few thousand weights on a few drawn images with --deterministic, once in one go and once killed at random
moments: while the program starts, amid rounds, and while a checkpoint is being written. Each time the same command goes
on with the training. At the end the weights, the optimisers' slots, metrics.jsonl and the best checkpoint must be the
same to the byte. Prints a Markdown table; exit status 1 where something differs.
"""

import argparse
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from descargan_tf import surroundings

surroundings.settle()
with surroundings.loading():
    import tensorflow  # noqa: F401  which `describe_machine` asks

import numpy as np

from descargan_tf.hardware import describe_machine
from descargan_tf.training import checkpoint

# Nothing divides anything else: the moments of the log, of validations and of checkpoints come together in every way.
COMMON = """\
--dataset=synthetic
--data_dir={data}
--num_train=8
--num_validate=4
--num_test=4
--image_size=64
--batch_size=4
--average_decay=0.9
--warmup_steps=5
--fixed_statistics_from=0.5
--log_every_steps=7
--validate_every_steps=12
--checkpoint_every_steps=5
--deterministic
"""
TINY = {
    "descargan": "--generator_filters=2 --discriminator_filters=2 --critic_updates=2",
    "stargan": "--generator_filters=2 --discriminator_filters=2 --critic_updates=2",
    "fpgan": "--generator_filters=2 --discriminator_filters=2 --critic_updates=2",
    "vagan": "--generator_filters=2 --discriminator_filters=2 --critic_updates=2",
    "vae": "--generator_filters=2 --latent_units=4",
    "dcls": "--discriminator_filters=2",
    "densenet169": "--dense_blocks=1,1,1,1",
}
# Of moments.
KINDS = {"start": "while it starts", "round": "amid rounds", "writing": "while a checkpoint is written"}
_LONGEST_SECONDS = 900  # of one life
_POLL_SECONDS = 0.002
_ROUND_SECONDS, _WRITING_SECONDS = 0.1, 0.02  # about what ten rounds, and a checkpoint, of this size take


class Run:
    """A training in a folder, one process after the other."""

    def __init__(self, folder: Path, flags: list[str]):
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self._command = [sys.executable, "-m", "descargan_tf.main", *flags, f"--run_dir={folder}"]
        self._log = folder.with_name(f"{folder.name}.out")

    def start(self) -> subprocess.Popen:
        """A life."""
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )

    def to_the_end(self) -> None:
        """A life that is left alone."""
        status = self.start().wait(_LONGEST_SECONDS)
        if status:
            raise SystemExit(f"ended with status {status}:\n{self._log.read_text(errors='replace')[-2000:]}")

    @property
    def step(self) -> int:
        """Of the last checkpoint."""
        return max(checkpoint.steps(self.checkpoints), default=0)

    @property
    def starts(self) -> int:
        """How often the training was taken up, or begun, as far as its log knows."""
        log = self.folder / "train.log"
        return log.read_text().count("resuming at step") if log.exists() else -1

    def is_writing(self) -> bool:
        """Whether a checkpoint has its temporary name."""
        return self.checkpoints.is_dir() and any(
            path.suffix in (".partial", ".old") for path in self.checkpoints.iterdir()
        )


def kill(run: Run, kind: str, step: int, delay: float) -> str | None:
    """Start it, wait for the moment, kill it.

    Args:
        run: whose turn it is.
        kind: of moment.
        step: of a checkpoint that must be there before.
        delay: seconds after that, or after the start.

    Returns:
        Where it was when it was killed; None where it had ended before.
    """
    before, process = run.starts, run.start()
    until = time.monotonic() + _LONGEST_SECONDS
    if kind != "start":
        while process.poll() is None and not (run.starts > before and run.step >= step):
            if time.monotonic() > until:
                raise SystemExit(f"{run.folder} does not get on")
            time.sleep(_POLL_SECONDS)
    if kind == "writing":
        while process.poll() is None and not run.is_writing():
            time.sleep(_POLL_SECONDS / 10)
    time.sleep(delay)
    if process.poll() is not None:
        return None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    if run.is_writing():
        return "writing"
    return "round" if run.starts > before else "start"


def moments(count: int, steps: int, seconds_to_start: float, rng: random.Random):
    """(kind, step, delay), as `kill` takes them, over a whole training."""
    kinds = [*itertools.islice(itertools.cycle(("round", "writing", "round", "writing", "start")), count)]
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        step = int(steps * (number + rng.random()) / (count + 1))
        longest = {"start": seconds_to_start, "round": _ROUND_SECONDS, "writing": _WRITING_SECONDS}[kind]
        yield kind, step, rng.uniform(0, longest)


def differences(one: Run, other: Run) -> dict[str, int]:
    """Arrays and lines that are not the same, by what they are of."""
    weights, slots, best, lines = (
        "weights",
        "optimiser slots",
        "arrays of the best",
        "lines of metrics.jsonl",
    )
    found = dict.fromkeys((weights, slots, best, lines), 0)
    for name in (str(one.step), "best"):
        first, second = (checkpoint.load(run.checkpoints / name)[0] for run in (one, other))
        for array in first.keys() | second.keys():
            same = array in first and array in second and first[array].dtype == second[array].dtype
            if not (same and first[array].tobytes() == second[array].tobytes()):
                found[best if name == "best" else slots if "optimizers" in array else weights] += 1
    metrics = [(run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True) for run in (one, other)]
    found[lines] = sum(a != b for a, b in itertools.zip_longest(*metrics))
    return found


def survive(method: str, kills: int, steps: int, folder: Path, seed: int) -> dict:
    """A row of the table."""
    flags = [f"--method={method}", *TINY[method].split(), f"--max_steps={steps}", f"--decay_steps={steps // 3}"]
    flags += COMMON.format(data=folder / "data").split()
    straight, killed = (Run(folder / f"{method}_{name}", flags) for name in ("straight", "killed"))
    began = time.monotonic()
    process = straight.start()
    while straight.step == 0 and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    seconds_to_start = time.monotonic() - began
    process.wait()
    straight.to_the_end()  # if anything is left to do
    rng = random.Random(f"{seed} {method}")
    where = Counter()
    for number, moment in enumerate(moments(kills, steps, seconds_to_start, rng), 1):
        place = kill(killed, *moment)
        print(f"{method}: kill {number} of {kills}: {place}, step {killed.step}", file=sys.stderr, flush=True)
        if place is None:
            break
        where[place] += 1
    killed.to_the_end()
    assert killed.step == straight.step == steps
    arrays = checkpoint.load(straight.checkpoints / str(steps))[0]
    digest = hashlib.sha256((straight.checkpoints / str(steps) / "state.npz").read_bytes()).hexdigest()
    return {
        "Method": method,
        "Rounds": steps,
        "Numbers": f"{sum(np.size(a) for a in arrays.values()):,}",
        "Kills": sum(where.values()),
        **{words: where[kind] for kind, words in KINDS.items()},
        "Taken up": killed.starts,
        **{f"{what} that differ": count for what, count in differences(straight, killed).items()},
        "sha256": digest[:8],
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["descargan", "vagan", "vae", "densenet169"], choices=TINY)
    parser.add_argument("--kills", type=int, default=20, help="of each method")
    parser.add_argument("--steps", type=int, default=300, help="rounds that are trained")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs lie; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for method in given.methods:
            rows.append(survive(method, given.kills, given.steps, folder.resolve(), given.seed))
            if len(rows) == 1:
                print(f"{describe_machine()}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
            print(f"| {' | '.join(map(str, rows[-1].values()))} |", flush=True)
    return int(any(count for row in rows for what, count in row.items() if what.endswith("differ")))


if __name__ == "__main__":
    sys.exit(main())
