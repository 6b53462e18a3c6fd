"""When things happen in a training: rounds, log lines, validations, checkpoints, the end."""

import contextlib
import dataclasses
import datetime
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf
from tqdm import tqdm

from descargan_tf.data.pipeline import training_batches
from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method
from descargan_tf.training import checkpoint
from descargan_tf.training.hardware import describe_machine
from descargan_tf.training.step import TrainStep
from descargan_tf.training.writer import Writer
from descargan_tf.types import Split

BEST = "best"
_ESTIMATE_SECONDS = 10.0  # how long rounds are timed, at most, before the duration is estimated; or five rounds
_LONG_HOURS = 3.0  # a training estimated to be longer than this says so at the start


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, how often; steps are rounds.

    Where `max_minutes` end a training before `max_steps`, all that changes over it (rates, blur, delays) runs
    faster in the same proportion, estimated from the pace.
    """

    batch_size: int
    seed: int
    max_steps: int
    max_minutes: float = 0.0
    average_decay: float = 0.0
    clip_norm: float = 0.0
    decay_steps: int = 0
    flips: bool = True
    log_every_steps: int = 50
    validate_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 2


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; everything is saved."""

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name} at step {step}: saved; run the same command to go on")
        self.status = 128 + number


def refuse_uneven_shares(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """UserError where the batch does not divide over the replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % (2 * replicas):
        raise UserError(
            f"--batch_size={batch_size} cannot be split over {replicas} devices with as many healthy as diseased "
            f"images on each: use a multiple of {2 * replicas}."
        )


class Trainer:
    """A training run in a folder; `run` starts it or takes it up where it stopped.

    Args:
        run_dir: holds metrics.jsonl, train/, validate/, checkpoints/.
        build_method: makes the method; called twice under the strategy, for training and for prediction.
        strategy: a tf.distribute strategy; the batch is split evenly over its replicas.
        split: the training images.
        settings: see `LoopSettings`.
        validate: from (predict, monitor, translate), the predictor's compiled functions, to a types.Validation.

    Raises:
        UserError: the batch does not divide over the replicas.
    """

    def __init__(
        self,
        run_dir: Path,
        build_method: Callable[[], Method],
        strategy: tf.distribute.Strategy,
        split: Split,
        settings: LoopSettings,
        validate: Callable,
    ):
        refuse_uneven_shares(settings.batch_size, strategy)
        self.run_dir, self.strategy, self.settings = run_dir, strategy, settings
        self._split, self._validate = split, validate
        with strategy.scope():
            self.method = build_method()
            self.predictor = build_method()  # what is validated, saved as "averaged" and served
            self.step = TrainStep(
                self.method,
                self.predictor.networks[self.method.averaged],
                strategy,
                settings.seed,
                average_decay=settings.average_decay,
                clip_norm=settings.clip_norm,
                schedule=self._schedule,
            )
        self._predict = tf.function(self.predictor.predict)
        self._monitor = tf.function(self.predictor.monitor)
        self._translate = tf.function(self.predictor.translate)
        self._best = -math.inf
        self._stop_signal = None
        self._started = time.perf_counter()
        self._trained_seconds = 0.0  # before this process

    def _schedule(self, phase, length):
        if not (self.settings.decay_steps or phase.warmup):
            return phase.learning_rate
        rounds = (phase.warmup, self.settings.max_steps, self.settings.decay_steps)
        updates = (phase.updates * count for count in rounds)
        return RiseAndFall(phase.initial_learning_rate, phase.learning_rate, *updates, length)

    # --- state

    def _save(self, name: str) -> None:
        arrays = {}
        for network_name, network in self.method.networks.items():
            arrays |= checkpoint.network_arrays(f"networks/{network_name}", network)
        self._refresh_predictor()
        arrays |= checkpoint.network_arrays("averaged", self.predictor.networks[self.method.averaged])
        for phase_name, optimizer in self.step.optimizers.items():
            arrays |= checkpoint.optimizer_arrays(f"optimizers/{phase_name}", optimizer)
        about = {
            "step": int(self.step.step.numpy()),
            "seed": self.settings.seed,
            "best_selection": None if math.isinf(self._best) else self._best,
            "trained_seconds": self._seconds(),
            "machine": describe_machine(),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        checkpoint.save(self.run_dir / "checkpoints" / name, arrays, about)

    def _restore(self) -> int:
        folder = self.run_dir / "checkpoints"
        known = checkpoint.steps(folder)
        if not known:
            return 0
        folder = folder / str(known[-1])
        arrays, about = checkpoint.load(folder)
        for name, network in self.method.networks.items():
            checkpoint.assign(f"networks/{name}", network.weights, arrays, folder)
        averaged = self.predictor.networks[self.method.averaged]
        checkpoint.assign("averaged", averaged.weights, arrays, folder)
        for name, optimizer in self.step.optimizers.items():
            checkpoint.assign(f"optimizers/{name}", optimizer.variables, arrays, folder)
        self.step.step.assign(about["step"])
        if about["best_selection"] is not None:
            self._best = about["best_selection"]
        self._trained_seconds = about.get("trained_seconds", 0.0)
        return about["step"]

    def _seconds(self):
        """Wall time of this training, all its processes together."""
        return self._trained_seconds + time.perf_counter() - self._started

    def _expect_length(self, step, seconds_per_round, bar):
        """With --max_minutes: how many rounds there will be at this pace, for all that changes over a training."""
        if self.settings.max_minutes and seconds_per_round:
            left = self._seconds_left(seconds_per_round, self.settings.max_steps - step)
            self.step.length.assign(min((step + left / seconds_per_round) / self.settings.max_steps, 1.0))
            bar.total = min(step + round(left / seconds_per_round), self.settings.max_steps)

    def _seconds_left(self, seconds_per_round, rounds):
        left = seconds_per_round * rounds
        if self.settings.max_minutes:
            left = min(left, max(self.settings.max_minutes * 60 - self._seconds(), 0.0))
        return left

    def _out_of_time(self):
        return 0 < self.settings.max_minutes * 60 <= self._seconds()

    def _refresh_predictor(self):
        for name, network in self.method.networks.items():
            if name != self.method.averaged or not self.settings.average_decay:
                self.predictor.networks[name].set_weights(network.get_weights())

    # --- the loop

    def run(self) -> int:
        """Train to `max_steps`, or for `max_minutes`; resume from the latest checkpoint of the folder.

        Returns:
            The step reached.

        Raises:
            UserError: a loss is not finite; a checkpoint could not be written.
            Interrupted: SIGTERM or SIGINT, after saving.
        """
        self._started = time.perf_counter()
        start = self._restore()
        try:
            if start:
                self._say(f"resuming at step {start}")
            if start >= self.settings.max_steps:
                self._say(f"nothing to do: step {start} of --max_steps={self.settings.max_steps} is reached")
                return start
            if 0 < self.settings.max_minutes * 60 <= self._trained_seconds:
                self._say(f"nothing to do: --max_minutes={self.settings.max_minutes:g} were used up by step {start}")
                return start
            return self._train_from(start)
        except OSError as error:
            raise UserError(
                f"--run_dir={self.run_dir} cannot be written: {error.strerror or error}. The checkpoints are whole; "
                "free space and run the same command to go on from the latest."
            ) from error

    def _train_from(self, start):
        writer = Writer(self.run_dir, start)
        try:
            with (
                self._signals(),
                tqdm(
                    total=self.settings.max_steps, initial=start, unit="round", dynamic_ncols=True, disable=None
                ) as bar,
            ):
                return self._rounds(start, writer, bar)
        finally:
            writer.close()

    def _rounds(self, start, writer, bar):
        s = self.settings
        batches = self._batches(start)
        since, since_step, sums, count = time.perf_counter(), start, {}, 0
        untold = True  # how long it will take
        self._expect_length(start, self._trained_seconds / start if start else None, bar)
        for step in range(start + 1, s.max_steps + 1):
            logs = self.step.round(tuple(next(batches) for _ in range(self.step.method.batches_per_round)))
            logs = {name: float(value) for name, value in logs.items()}
            for name, value in logs.items():
                if not math.isfinite(value):
                    raise UserError(
                        f"{name} is {value} at step {step}: the training has diverged and is stopped. The checkpoints "
                        f"in {self.run_dir / 'checkpoints'} are from before; train at lower rates in another "
                        "--run_dir."
                    )
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            bar.update()
            if step == start + 1:
                since, since_step = time.perf_counter(), step  # the first round was compilation
            elif untold and (step == start + 6 or time.perf_counter() - since > _ESTIMATE_SECONDS):
                self._say_duration((time.perf_counter() - since) / (step - since_step), s.max_steps - step)
                untold = False
            last = step == s.max_steps or self._out_of_time()
            if step % s.log_every_steps == 0 or last:
                measured = step - since_step
                seconds = (time.perf_counter() - since) / measured if measured else None
                self._log(step, {name: value / count for name, value in sums.items()}, seconds, writer, bar)
                self._expect_length(step, seconds, bar)
                since, since_step, sums, count = time.perf_counter(), step, {}, 0
            stopping = self._stop_signal is not None
            paused = time.perf_counter()
            if step % s.validate_every_steps == 0 or last:
                self._validation(step, writer)
            if stopping or step % s.checkpoint_every_steps == 0 or last:
                self._save(str(step))
                checkpoint.prune(self.run_dir / "checkpoints", s.keep_checkpoints)
            since += time.perf_counter() - paused
            if stopping:
                raise Interrupted(self._stop_signal, step)
            if last:
                break
        if step < s.max_steps:
            self._say(f"--max_minutes={s.max_minutes:g} are over: ends at step {step} of {s.max_steps}")
        return step

    def _batches(self, start):
        replicas = self.strategy.num_replicas_in_sync
        share = self.settings.batch_size // replicas

        def make(_=None):
            first = start * self.step.method.batches_per_round * replicas
            return training_batches(self._split, share, self.settings.seed, flips=self.settings.flips, start=first)

        return iter(self.strategy.distribute_datasets_from_function(make))

    def _validation(self, step, writer):
        self._refresh_predictor()
        found = self._validate(self._predict, self._monitor, self._translate)
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

    def _log(self, step, means, seconds, writer, bar):
        # A first round is compilation and says nothing of the pace.
        images = None if seconds is None else self.settings.batch_size * self.step.method.batches_per_round / seconds
        writer.scalars("train", step, {**means, "seconds_per_round": seconds, "images_per_second": images})
        short = {name: means[f"{name}/total"] for name in self.step.optimizers}
        totals = "  ".join(f"{name} {value:>10.4f}" for name, value in short.items())
        pace = ""
        if images is not None:
            left = datetime.timedelta(seconds=round(self._seconds_left(seconds, self.settings.max_steps - step)))
            pace = f"  {images:>7.1f} images/s  {left} left"
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
        tqdm.write(text)
        with open(self.run_dir / "train.log", "a") as file:
            file.write(text + "\n")

    @contextlib.contextmanager
    def _signals(self):
        """The first SIGTERM or Ctrl-C ends after the round at hand; a second Ctrl-C ends at once."""

        def stop(number, _):
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = number
            tqdm.write(f"{signal.Signals(number).name}: saving after this round")

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@keras.saving.register_keras_serializable("descargan_tf")
class RiseAndFall(keras.optimizers.schedules.LearningRateSchedule):
    """Linearly to `rate` over the first `warmup` updates, constant, linearly to 0 over the last `decay` of `total`.

    `length`, a scalar variable in (0, 1], shortens all of that while training goes on.
    """

    def __init__(self, initial: float, rate: float, warmup: int, total: int, decay: int, length=1.0):
        self.initial, self.rate, self.warmup, self.total, self.decay = initial, rate, warmup, total, decay
        self.length = length

    def __call__(self, step):
        """Learning rate of update number `step`, counted from 0."""
        step = tf.cast(step, tf.float32) / self.length
        rate = tf.constant(self.rate)
        if self.warmup:
            rate = self.initial + (self.rate - self.initial) * tf.minimum((step + 1.0) / self.warmup, 1.0)
        if self.decay:
            rate *= tf.clip_by_value((self.total - step) / self.decay, 0.0, 1.0)
        return rate

    def get_config(self):
        """As every Keras schedule; `length` belongs to a training at hand."""
        return {
            "initial": self.initial,
            "rate": self.rate,
            "warmup": self.warmup,
            "total": self.total,
            "decay": self.decay,
        }
