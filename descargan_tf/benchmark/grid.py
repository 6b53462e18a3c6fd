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

from descargan_tf.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system: two benchmarks in one folder are the user's to avoid
    fcntl = None

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
    signals_sent: int = 0


class Grid:
    """Runs what of the grid is not finished.

    Args:
        runs: the whole grid, in the order in which it is to be run.
        jobs: how many at a time; they share out the cores that this process may use.
        finished: called after each run that ended well.
        held: file descriptors that the runs inherit; see `alone_in`.

    Attributes:
        failures: what is to be said of each run that failed: one line, and the last lines of its log.
        stop_signal: the signal that ended it early; None where none did.
    """

    def __init__(self, runs: list[Run], jobs: int, finished: Callable[[Run], None], held: tuple[int, ...] = ()):
        self.runs, self.jobs, self._finished, self._held = runs, jobs, finished, held
        self.failures: dict[Run, tuple[str, str]] = {}
        self.stop_signal: int | None = None
        self._signals_seen = 0
        self._working: dict[int, _Job] = {}  # by number of the share of the cores
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def work(self) -> None:
        """Run everything; a first SIGTERM or Ctrl-C has all runs save and stop, a second one stops at once."""
        waiting = [run for run in self.runs if not run.is_finished]
        total = sum(run.rounds * run.images_per_round for run in self.runs)
        shown = told = -math.inf
        with (
            self._signals(),
            tqdm(total=total, unit="image", unit_scale=True, dynamic_ncols=True, disable=None) as bar,
        ):
            try:
                while self._working or (waiting and not self._signals_seen):
                    for share in range(self.jobs):
                        if share not in self._working and waiting and not self._signals_seen:
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
            if job.signals_sent < self._signals_seen:
                job.signals_sent += 1
                job.process.terminate()
            return
        if status == 0 and not self._signals_seen and self._next(share, job):
            return
        del self._working[share]
        if status == 0 and job.run.is_finished:
            tqdm.write(f"{job.run}: done")
            self._finished(job.run)
        elif self._signals_seen:
            tqdm.write(f"{job.run}: stopped at round {job.run.rounds_done}")
        else:
            self._fail(job.run, status)

    def _fail(self, run, status):
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        lines = [line for line in _tail(run.log).splitlines() if line.strip()]
        self.failures[run] = f"{how} (log: {run.log})", "\n".join(lines[-_LAST_LINES:])
        tqdm.write(f"{run}: FAILED, {how}; the others go on")

    # --- stopping

    @contextlib.contextmanager
    def _signals(self):
        def stop(number, _):
            if self.stop_signal is None:
                tqdm.write(f"{signal.Signals(number).name}: the runs are saving")
            self.stop_signal = number
            self._signals_seen += 1

        numbers = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[tuple[int, ...]]:
    """Hold the folder's lock; gives what a Grid's runs are to hold, as those of a killed one may still be at work.

    Raises:
        UserError: another holds it.
    """
    if fcntl is None:
        yield ()
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--run_dir={folder} is in use: a benchmark, or a run that one left behind, works there. Wait for it "
                "or stop it; finished runs are kept."
            ) from None
        yield (file.fileno(),)
