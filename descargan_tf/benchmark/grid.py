"""A grid of runs: each a process of its own, so many at a time, so that the end of one is not the end of the others.

A run is two commands, training and evaluation, in a run folder like any other. What is finished is not done again, what
was stopped is taken up, what failed is tried again.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from descargan_tf import signals

_POLL_SECONDS = 0.5
_BAR_SECONDS = 2.0
_LINE_SECONDS = 60.0  # between lines of progress where there is no terminal for a bar
_LAST_LINES = 12  # of the log of a run that failed
_TAIL_BYTES = 65536


@dataclasses.dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    name: str  # of the row
    seed: int
    run_dir: Path
    log: Path
    flags: tuple[str, ...]  # of its training
    evaluation_flags: tuple[str, ...]  # beside --run_dir
    saliency: str
    rounds: int
    images_per_round: int

    def __str__(self):
        """As it is called in messages."""
        return f"{self.name}, seed {self.seed}"

    @property
    def rounds_done(self) -> int:
        """Of the training, as its metrics say."""
        return int(_last_metrics(self.run_dir).get("step", 0))

    @property
    def is_trained(self) -> bool:
        """Whether the last checkpoint is that of the last round."""
        return (self.run_dir / "checkpoints" / str(self.rounds) / "checkpoint.json").exists()

    @property
    def is_finished(self) -> bool:
        """Whether its report is of the whole training and of the maps that are wanted."""
        try:
            report = json.loads((self.run_dir / "report.json").read_text())
            return report["training"]["rounds"] == self.rounds and report["saliency"] == self.saliency
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def commands(self) -> Iterator[list[str]]:
        """What is still to be run, in order."""
        main = [sys.executable, "-m", "descargan_tf.main"]
        if not self.is_trained:
            yield [*main, "--mode=train", *self.flags, f"--run_dir={self.run_dir}"]
        yield [*main, "--mode=evaluate", f"--run_dir={self.run_dir}", *self.evaluation_flags]


@dataclasses.dataclass
class _Job:
    run: Run
    commands: Iterator[list[str]]
    process: subprocess.Popen | None = None
    is_told: bool = False  # to save and stop


class Grid:
    """Runs what of the grid is not finished.

    Args:
        runs: the whole grid, in the order in which it is to be run.
        jobs: how many at a time; they share out the cores that this process may use.
        finished: called after each run that ended well.
        held: file descriptors that the runs inherit; see `locks.alone_in`.

    Attributes:
        failures: what is to be said of each run that failed: one line, and the last lines of its log.
    """

    def __init__(self, runs: list[Run], jobs: int, finished: Callable[[Run], None], held: tuple[int, ...] = ()):
        self.runs, self.jobs, self._finished, self._held = runs, jobs, finished, held
        self.failures: dict[Run, tuple[str, str]] = {}
        self._ending = signals.Ending("the runs are saving (Ctrl-C again: end at once)")
        self._working: dict[int, _Job] = {}  # by number of the share of the cores
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    @property
    def stop_signal(self) -> int | None:
        """The signal that ended it early; None where none did."""
        return self._ending.number

    def work(self) -> None:
        """Run everything; a signal has all runs save and stop.

        Raises:
            signals.Stopped: Ctrl-C pressed again; what the runs have not saved is lost.
        """
        waiting = [run for run in self.runs if not run.is_finished]
        total = sum(run.rounds * run.images_per_round for run in self.runs)
        shown = told = -math.inf
        with (
            signals.caught(self._ending),
            signals.leaving("the runs' checkpoints are kept"),
            tqdm(total=total, unit="image", unit_scale=True, dynamic_ncols=True, disable=None) as bar,
        ):
            try:
                while self._working or (waiting and self.stop_signal is None):
                    for share in range(self.jobs):
                        if share not in self._working and waiting and self.stop_signal is None:
                            self._start(share, waiting.pop(0))
                    time.sleep(_POLL_SECONDS)
                    for share in list(self._working):
                        self._look_after(share)
                    now = time.perf_counter()
                    if not bar.disable and now - shown > _BAR_SECONDS:
                        shown = now
                        bar.n = sum(min(run.rounds_done, run.rounds) * run.images_per_round for run in self.runs)
                        bar.set_postfix_str(self._progress())
                    elif bar.disable and now - told > _LINE_SECONDS:
                        told = now
                        tqdm.write(self._progress())
            except signals.Stopped:
                for job in self._working.values():
                    job.process.kill()
                raise
            finally:
                for job in self._working.values():
                    job.process.terminate()

    # --- single runs

    def _start(self, share, run):
        before = run.rounds_done
        tqdm.write(f"{run}: {run.rounds} rounds" + (f", goes on after {before}" if before else ""))
        self._working[share] = job = _Job(run, run.commands())
        self._next(share, job)

    def _next(self, share, job):
        """Start a run's next command; whether there was one."""
        command = next(job.commands, None)
        if command is None:
            return False
        job.run.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.run.log, "ab") as log:
            log.write(f"$ {shlex.join(['python', *command[1:]])}\n".encode(errors="surrogateescape"))
            log.flush()
            path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
            job.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,  # Ctrl-C in a terminal reaches all of a group; theirs is passed on, once
                pass_fds=self._held,
            )
        mine = self._cores[share :: self.jobs]
        if self.jobs > 1 and mine:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(job.process.pid, mine)
        return True

    def _look_after(self, share):
        job = self._working[share]
        status = job.process.poll()
        if status is None:
            if self.stop_signal is not None and not job.is_told:
                job.is_told = True
                job.process.terminate()
            return
        if status == 0 and self.stop_signal is None and self._next(share, job):
            return
        del self._working[share]
        if status == 0 and job.run.is_finished:
            tqdm.write(f"{job.run}: done")
            self._finished(job.run)
        elif self.stop_signal is not None:
            tqdm.write(f"{job.run}: stopped at round {job.run.rounds_done}")
        else:
            self._fail(job.run, status)

    def _fail(self, run, status):
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        lines = [line for line in _tail(run.log).splitlines() if line.strip()]
        self.failures[run] = f"{how} (log: {run.log})", "\n".join(lines[-_LAST_LINES:])
        tqdm.write(f"{run}: FAILED, {how}; the others go on")

    # --- progress

    def _progress(self):
        finished = sum(run.is_finished for run in self.runs)
        at_work = [job.run for job in self._working.values()]
        working = ", ".join(
            f"{run.name} {run.seed}: " + ("evaluation" if run.is_trained else f"{run.rounds_done}/{run.rounds}")
            for run in at_work
        )
        left = time_left(self.runs, self.jobs, set(self.failures))
        shown = "time left not known yet" if left is None else f"about {datetime.timedelta(seconds=round(left))} left"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{finished} of {len(self.runs)} runs done{failed}, {shown} ({working or 'nothing runs'})"


def time_left(runs, jobs, failed=frozenset()):
    """Seconds until the grid is done, from what a round takes in each row; None before any is known.

    A row that has not begun is taken to need for an image what the others need on average.
    """
    pace = {}  # seconds an image, by row
    for run in runs:
        seconds = _last_metrics(run.run_dir).get("seconds_per_round")
        if seconds:
            pace.setdefault(run.name, []).append(seconds / run.images_per_round)
    if not pace:
        return None
    pace = {name: sum(values) / len(values) for name, values in pace.items()}
    usual = sum(pace.values()) / len(pace)
    left = []
    for run in runs:
        if run not in failed and not run.is_finished:
            images = max(run.rounds - run.rounds_done, 0) * run.images_per_round
            left.append(images * pace.get(run.name, usual))
    return max(sum(left) / jobs, max(left, default=0.0))


def _last_metrics(run_dir):
    """The last line about training in metrics.jsonl; empty where there is none."""
    for line in reversed(_tail(run_dir / "metrics.jsonl").splitlines()):
        with contextlib.suppress(ValueError):  # cut off by where the tail begins, or being written
            found = json.loads(line)
            if isinstance(found, dict) and found.get("group") == "train":
                return found
    return {}


def _tail(path):
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
