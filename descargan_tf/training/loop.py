"""When things happen in a training: rounds, log lines, validations, checkpoints, the end."""

import dataclasses
import datetime
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.training import checkpoint
from descargan_tf.training.engine import Engine
from descargan_tf.training.schedule import Schedule
from descargan_tf.training.soundness import Soundness
from descargan_tf.training.writer import SilentWriter, Writer

BEST = "best"
_ESTIMATE_SECONDS = 10.0  # how long rounds are timed, at most, before the duration is estimated; or five rounds
_LONG_HOURS = 3.0  # a training estimated to be longer than this says so at the start
_SNAPSHOT_SECONDS = 30.0  # between states that a training that comes apart may go back to
_SLOWER = 0.7  # what all rates are multiplied by then


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, how often; steps are rounds.

    Where `max_minutes` end a training before `max_steps`, all that changes over it (rates, fixed statistics) runs
    faster in the same proportion, estimated from the pace. With `deterministic` nothing follows from the clock: no pace
    in metrics.jsonl, and no recoveries, as the states that they go back to are taken by it.
    """

    batch_size: int
    seed: int
    max_steps: int
    deterministic: bool = False
    max_minutes: float = 0.0
    warmup_steps: int = 0
    decay_steps: int = 0
    fixed_statistics_from: float = 1.0
    recoveries: int = 0
    log_every_steps: int = 50
    validate_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 2


class _CameApart(Exception):
    """What is wrong, and since when."""


class Interrupted(signals.Stopped):
    """A signal arrived; everything is saved."""

    def __init__(self, number: int, step: int):
        super().__init__(number)
        self._step = step

    def __str__(self):
        return f"{signals.name_of(self.number)} at step {self._step}: saved; run the same command to go on"


class Trainer:
    """A training run in a folder; `run` starts it or takes it up where it stopped.

    Args:
        run_dir: holds metrics.jsonl, train/, validate/, checkpoints/.
        engine: what computes the rounds.
        settings: see `LoopSettings`.
        validate: from (predict, monitor, translate) of the averaged weights to a types.Validation.
        facts: written into the description of every checkpoint, of the machine for one.
    """

    def __init__(
        self, run_dir: Path, engine: Engine, settings: LoopSettings, validate: Callable, facts: dict | None = None
    ):
        self.run_dir, self.engine, self.settings = run_dir, engine, settings
        self._validate, self._facts = validate, facts or {}
        self._schedule = Schedule(settings.max_steps, settings.warmup_steps, settings.decay_steps)
        self._length = 1.0  # expected rounds of this training by those that the schedule was made for
        self._fixed_at = None  # the round from which statistics are fixed
        self._recoveries = 0  # times that it went back, each at lower rates
        self._sound = []  # (step, fixed_at, arrays) at the ends of two windows that passed as sound, or at the start
        self._sums, self._count = {}, 0  # of the terms of the rounds since the last line of the log, and how many
        self._soundness = Soundness(engine.method.critic_scores)
        self._best = -math.inf
        self._is_chief = engine.workers.is_chief  # who alone reports and writes
        self._ending = signals.Ending()
        self._started = time.perf_counter()
        self._trained_seconds = 0.0  # before this process

    # --- state

    def _save(self, name: str) -> None:
        if not self._is_chief:
            return
        about = {
            "step": self.engine.step,
            "seed": self.settings.seed,
            "best_selection": None if math.isinf(self._best) else self._best,
            "fixed_statistics_at": self._fixed_at,
            "recoveries": self._recoveries,
            "trained_seconds": self._seconds(),
            **self._facts,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "since_log": {"rounds": self._count, "sums": self._sums},
            "soundness": self._soundness.state(),
        }
        checkpoint.save(self.run_dir / "checkpoints" / name, self.engine.arrays(), about)

    def _restore(self) -> int:
        checkpoints = self.run_dir / "checkpoints"
        if self._is_chief:
            checkpoint.clear_partial(checkpoints)
        found = checkpoint.load_latest(checkpoints, self._say, sets_aside=self._is_chief)
        if found is None:
            return 0
        folder, arrays, about = found
        self.engine.assign(arrays, about["step"], folder)
        self._fixed_at, self._recoveries = about.get("fixed_statistics_at"), about.get("recoveries", 0)
        if self._fixed_at is not None:
            self.engine.fix_statistics()
        if about["best_selection"] is not None and self._is_chief and checkpoint.has_best(checkpoints, BEST, self._say):
            self._best = about["best_selection"]
        self._trained_seconds = about.get("trained_seconds", 0.0)
        if "since_log" in about:  # not in those of earlier versions
            self._sums, self._count = about["since_log"]["sums"], about["since_log"]["rounds"]
            self._soundness.restore(about["soundness"])
        return about["step"]

    def _seconds(self):
        """Wall time of this training, all its processes together."""
        return self._trained_seconds + time.perf_counter() - self._started

    def _expect_length(self, step, seconds_per_round, bar):
        """With --max_minutes: how many rounds there will be at this pace, for all that changes over a training."""
        if self.settings.max_minutes and seconds_per_round:
            left = self._seconds_left(seconds_per_round, self.settings.max_steps - step)
            own = min((step + left / seconds_per_round) / self.settings.max_steps, 1.0)
            self._length = self._of_chief(own)
            bar.total = min(step + round(left / seconds_per_round), self.settings.max_steps)

    def _seconds_left(self, seconds_per_round, rounds):
        left = seconds_per_round * rounds
        if self.settings.max_minutes:
            left = min(left, max(self.settings.max_minutes * 60 - self._seconds(), 0.0))
        return left

    def _out_of_time(self):
        return 0 < self.settings.max_minutes * 60 <= self._seconds()

    # --- several processes, each of which must do the same

    def _of_chief(self, value):
        return self.engine.sum_over_processes([value if self._is_chief else 0.0])[0]

    def _agree(self, since_snapshot):
        """What clocks and signals say: end the training by a signal, for its time is over, keep a state."""
        chief = self._is_chief
        own = self._ending.number is not None, chief and self._out_of_time(), chief and since_snapshot
        return [total > 0.5 for total in self.engine.sum_over_processes([float(bool(word)) for word in own])]

    def _refuse_unlike_checkpoints(self, step):
        total = self.engine.sum_over_processes([step])[0]
        if abs(total - step * self.engine.workers.count) > 0.5:
            raise UserError(
                f"--run_dir={self.run_dir} holds step {step} for this process and another one elsewhere: the processes "
                "of a training need a file system that they share."
            )

    # --- the loop

    def run(self) -> int:
        """Train to `max_steps`, or for `max_minutes`; resume from the latest checkpoint of the folder.

        Returns:
            The step reached.

        Raises:
            UserError: the training came apart more than `recoveries` times; a checkpoint could not be written.
            Interrupted: a signal, after saving.
            signals.Stopped: Ctrl-C pressed again; what is not saved is lost.
        """
        self._started = time.perf_counter()
        start = self._restore()
        self._refuse_unlike_checkpoints(start)
        try:
            if start:
                self._say(f"resuming at step {start}")
            if start >= self.settings.max_steps:
                self._say(f"nothing to do: step {start} of --max_steps={self.settings.max_steps} is reached")
                return start
            if 0 < self.settings.max_minutes * 60 <= self._trained_seconds:
                self._say(f"nothing to do: --max_minutes={self.settings.max_minutes:g} were used up by step {start}")
                return start
            if self._schedule.shortened:
                self._say(self._schedule.shortened)
            return self._train_from(start)
        except OSError as error:
            raise UserError(
                f"--run_dir={self.run_dir} cannot be written: {reason(error)}. The checkpoints are whole; "
                "free space and run the same command to go on from the latest."
            ) from error

    def _train_from(self, start):
        self._ending = signals.Ending("saving after this round (Ctrl-C again: end at once)")
        with (
            signals.caught(self._ending),
            signals.leaving("the rounds since the last checkpoint are lost"),
            tqdm(
                total=self.settings.max_steps,
                initial=start,
                unit="round",
                dynamic_ncols=True,
                disable=None if self._is_chief else True,
            ) as bar,
        ):
            while True:
                writer = Writer(self.run_dir, start) if self._is_chief else SilentWriter()
                try:
                    return self._rounds(start, writer, bar)
                except _CameApart as trouble:
                    start = self._go_back(trouble)
                    bar.n = start
                finally:
                    writer.close()

    def _rounds(self, start, writer, bar):
        s = self.settings
        soundness = self._soundness
        since, since_step = time.perf_counter(), start
        untold = True  # how long it will take
        self._expect_length(start, self._trained_seconds / start if start else None, bar)
        self._sound, snapped = [self._snapshot()], time.perf_counter()
        step = start
        while step < s.max_steps:
            compiles = self._fix_statistics_when_due(step) or step == start
            factors = [self._factor(number) for number in range(step, step + self._chunk(step))]
            for logs in _by_round(self.engine.rounds(factors)):
                step += 1
                wrong = soundness.see(logs)
                if wrong:
                    raise _CameApart(f"{wrong} at step {step}")
                for warning in soundness.warnings():
                    self._say(f"step {step:>7}  WARNING: {warning}")
                for name, value in logs.items():
                    self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += len(factors)
            bar.update(len(factors))
            if compiles:  # which says nothing of the pace
                since, since_step = time.perf_counter(), step
            elif untold and (step >= start + 6 or time.perf_counter() - since > _ESTIMATE_SECONDS):
                self._say_duration((time.perf_counter() - since) / (step - since_step), s.max_steps - step)
                untold = False
            paused = time.perf_counter()
            stopping, is_over, snapshot_due = self._agree(paused - snapped > _SNAPSHOT_SECONDS)
            last = step == s.max_steps or is_over
            if step % s.log_every_steps == 0 or last:
                measured = step - since_step
                seconds = (time.perf_counter() - since) / measured if measured else None
                means = {name: value / self._count for name, value in self._sums.items()}
                self._log(step, means, soundness.scalars(), seconds, writer, bar)
                self._expect_length(step, seconds, bar)
                since, since_step = time.perf_counter(), step
                self._sums, self._count = {}, 0
            paused = time.perf_counter()
            if soundness.passed_a_window() and self._allowed_recoveries and snapshot_due:
                self._sound, snapped = [self._sound[-1], self._snapshot()], paused
            if step % s.validate_every_steps == 0 or last:
                self._validation(step, writer)
            if stopping or step % s.checkpoint_every_steps == 0 or last:
                writer.sync()
                self._save(str(step))
                if self._is_chief:
                    checkpoint.prune(self.run_dir / "checkpoints", s.keep_checkpoints)
            since += time.perf_counter() - paused
            if stopping:
                raise Interrupted(self._ending.number or signal.SIGTERM, step)  # another process may have had it
            if last:
                break
        if step < s.max_steps:
            self._say(f"--max_minutes={s.max_minutes:g} are over: ends at step {step} of {s.max_steps}")
        self.engine.sum_over_processes([0.0])  # they end together: one that is left takes the others for lost
        return step

    def _chunk(self, step):
        """Rounds up to the next one after which there is something to do, at most as many as the engine likes."""
        s = self.settings
        periods = [s.log_every_steps, s.validate_every_steps, s.checkpoint_every_steps]
        due = [s.max_steps, *(step - step % period + period for period in periods)]
        if self._fixed_at is None:
            due.append(self._fixes_at())
        return min(self.engine.chunk, *(number - step for number in due))

    def _factor(self, step):
        return _SLOWER**self._recoveries * self._schedule.factor(step, self._length, self._fixed_at)

    def _fixes_at(self):
        """The step from which statistics are to be fixed; infinite for never."""
        share = self.settings.fixed_statistics_from
        return math.ceil(share * self.settings.max_steps * self._length) if share < 1 else math.inf

    def _fix_statistics_when_due(self, step):
        if self._fixed_at is None and step >= self._fixes_at():
            self._fixed_at = step
            self.engine.estimate_and_fix_statistics()
            self._say(f"step {step:>7}  from here on normalisation uses fixed statistics, as at inference")
            return True
        return False

    # --- when a training comes apart

    @property
    def _allowed_recoveries(self):
        return 0 if self.settings.deterministic else self.settings.recoveries

    def _snapshot(self):
        return self.engine.step, self._fixed_at, self.engine.arrays() if self._allowed_recoveries else None

    def _go_back(self, trouble):
        """To the last state known to be sound, at lower rates; the step of that state.

        Raises:
            UserError: it was done as often as it may be.
        """
        allowed = self._allowed_recoveries
        if self._recoveries >= allowed:
            raise UserError(
                f"{trouble}: the training has come apart and is stopped"
                + (f", after {allowed} recoveries" if allowed else "")
                + f". The checkpoints in {self.run_dir / 'checkpoints'} are from before; train at lower rates in "
                "another --run_dir, or allow more --recoveries."
            ) from trouble
        step, fixed_at, arrays = self._sound[0]
        if self._fixed_at is not None:  # what is fixed stays so, also where the state is from before
            self._fixed_at = step if fixed_at is None else fixed_at
        self._recoveries += 1
        self.engine.assign(arrays, step, "the last sound state")
        self._sums, self._count = {}, 0
        self._soundness = Soundness(self.engine.method.critic_scores)
        self._say(
            f"WARNING: {trouble}: the training has come apart. Back at step {step}, with rates "
            f"{_SLOWER**self._recoveries:.2f} times as large (recovery {self._recoveries} of {allowed})"
        )
        for later in [known for known in checkpoint.steps(self.run_dir / "checkpoints") if known > step]:
            if self._is_chief:
                checkpoint.remove(self.run_dir / "checkpoints", later)
        if step:
            self._save(str(step))
        return step

    def _validation(self, step, writer):
        if not self._is_chief:
            return
        self.engine.refresh()
        found = self._validate(self.engine.predict, self.engine.monitor, self.engine.translate)
        scalars = {**found.scalars, "selection": found.selection}
        writer.scalars("validate", step, scalars)
        writer.images(step, found.pictures)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scalars.items() if value is not None)
        self._say(f"step {step:>7}  validation  {shown}")
        for warning in found.warnings:
            self._say(f"step {step:>7}  WARNING: {warning}")
        if found.selection > self._best:
            self._best = found.selection
            self._save(BEST)

    def _log(self, step, means, alarms, seconds, writer, bar):
        # A first round is compilation and says nothing of the pace.
        method = self.engine.method
        images = None if seconds is None else self.settings.batch_size * method.batches_per_round / seconds
        scores = {f"critics/{name}": value for name, value in method.critic_scores(means).items()}
        shares = {} if seconds is None else self.engine.shares(seconds)
        paces = {"seconds_per_round": seconds, "images_per_second": images, **shares}
        if self.settings.deterministic:
            paces = dict.fromkeys(paces)
        writer.scalars("train", step, {**means, **scores, **alarms, **paces})
        short = {phase.name: means[f"{phase.name}/total"] for phase in method.phases}
        totals = "  ".join(f"{name} {value:>10.4f}" for name, value in short.items())
        if scores:
            real, fake, of_generator = scores.values()
            totals += f"  critics: real {real:.3f}, fake {fake:.3f}, generator's {of_generator:.3f}"
        pace = ""
        if images is not None:
            left = datetime.timedelta(seconds=round(self._seconds_left(seconds, self.settings.max_steps - step)))
            shown = "".join(f"  {name.replace('_', ' ')} {share:.0%}" for name, share in shares.items())
            pace = f"  {images:>7.1f} images/s{shown}  {left} left"
            short["images/s"] = images
        bar.set_postfix({name: f"{value:.3g}" for name, value in short.items()})
        self._say(f"step {step:>7}  {totals}{pace}")

    def _say_duration(self, seconds, rounds):
        total = datetime.timedelta(seconds=round(seconds * rounds))
        self._say(f"{seconds:.2f} s a round on this machine: {rounds} rounds will take about {total}")
        left = self._seconds_left(seconds, rounds)
        if left < seconds * rounds:
            self._say(
                f"--max_minutes={self.settings.max_minutes:g} will end it after about {left / seconds:.0f} of them"
            )
        if left > _LONG_HOURS * 3600:
            self._say(
                "that is long: on a CPU, configs/quickstart.flags trains a smaller model in minutes (make quickstart)"
            )

    def _say(self, text):
        if not self._is_chief:
            return
        tqdm.write(text)
        with open(self.run_dir / "train.log", "a") as file:
            file.write(text + "\n")


def _by_round(logs):
    """One dict of floats a round, of one array a term."""
    for values in zip(*logs.values(), strict=True):
        yield dict(zip(logs, map(float, values), strict=True))
