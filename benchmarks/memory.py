"""Whether memory stays flat: python benchmarks/memory.py

Trains, evaluates (--mode=evaluate, with figures and report) and exports (--mode=export) in one process, time and again
while it trains, with a network of a few thousand weights, so that what is kept of each is not lost in what a network
needs. Prints what is resident after each tenth; exit status 1 where it grows by 5 % or more after the first of them.
Exports are verified in processes of their own; here the first one alone is.
"""

import argparse
import contextlib
import dataclasses
import gc
import io
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from descargan_tf import surroundings

surroundings.settle()
with surroundings.loading():
    from descargan_tf.commands import COMMANDS, train
    from descargan_tf.export import exporter

from descargan_tf.hardware import describe_machine
from descargan_tf.run_folder import configure

TINY = {
    "vae": ("--generator_filters=2", "--latent_units=4"),
    "dcls": ("--discriminator_filters=2",),
}  # none with critics, which come apart at this size
ALLOWED = 0.05  # of what is resident after the first tenth
_PARTS = 10


def resident() -> float:
    """Megabytes of this process in memory, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Work:
    """Takes the place of the training's validation, and evaluates and exports beside it."""

    def __init__(self, given, config):
        self._given, self._config = given, config
        self._validate, self._verify = train.validate, exporter.verify_apart
        self._verification, self._out = None, sys.stdout
        self.evaluations = self.exports = 0
        self.found = []  # (step, evaluations, exports, megabytes)

    def __call__(self, *arguments):
        """As `evaluation.validation.validate`."""
        found = self._validate(*arguments)
        given, self.evaluations = self._given, self.evaluations + 1
        self._run("evaluate")
        while self.exports * given.evaluations < self.evaluations * given.exports:
            self._run("export")
            self.exports += 1
        if self.evaluations * _PARTS % given.evaluations < _PARTS:
            step = given.steps * self.evaluations // given.evaluations
            self.found.append((step, self.evaluations, self.exports, resident()))
            row = " | ".join(f"{value:,.0f}" for value in self.found[-1])
            print(f"| {row} |", file=self._out, flush=True)
        return found

    def verify(self, folder):
        """As `exporter.verify_apart`, which says the same of every version."""
        self._verification = self._verification or self._verify(folder)
        return self._verification

    def _run(self, mode):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            COMMANDS[mode](dataclasses.replace(self._config, mode=mode, checkpoint="latest"))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="vae", choices=TINY)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--exports", type=int, default=20)
    given = parser.parse_args()
    every = given.steps // given.evaluations
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--dataset=synthetic", f"--data_dir={folder}/data", f"--run_dir={folder}/run", "--image_size=64"]
        flags += ["--num_train=8", "--num_validate=4", "--num_test=4", "--batch_size=4", f"--method={given.method}"]
        flags += [*TINY[given.method], f"--max_steps={given.steps}", f"--validate_every_steps={every}"]
        flags += [f"--checkpoint_every_steps={max(every // 2, 1)}", "--average_decay=0.9"]
        config = configure(["memory", *flags])
        work = Work(given, config)
        train.validate, exporter.verify_apart = work, work.verify
        print(f"{describe_machine()}, --method={given.method}\n")
        print("| step | evaluations | exports | MB resident |\n|---:|---:|---:|---:|", flush=True)
        with contextlib.redirect_stdout(io.StringIO()):  # its log; the table goes to what was standard output before
            COMMANDS["train"](config)
    first, last = work.found[0][-1], work.found[-1][-1]
    print(f"\n{(last - first) / first:+.1%} after the first tenth")
    return int(last - first >= ALLOWED * first)


if __name__ == "__main__":
    sys.exit(main())
