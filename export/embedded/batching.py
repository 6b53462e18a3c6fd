"""Requests that come at the same time run as one batch: joined along axis 0, split again, faults kept apart.

Not tf.nondifferentiable_batch_function (tried in TensorFlow 2.21): there one broken image fails every request of its
batch, and a caller's deadline cancels the batch of the others.
"""

import collections
import concurrent.futures
import dataclasses
import os
import threading
import time
from pathlib import Path

import numpy as np

from descargan_tf.errors import UserError

from .status import Code, ServingError, invalid
from .text_protos import parse_file
from .types import Model


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's, where this server has a use for them."""

    max_batch_size: int = 16
    batch_timeout_micros: int = 0  # how long a batch waits for company when a thread is free
    max_enqueued_batches: int = 64
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()  # batches are filled up to one of them; empty: any size
    enable_large_batch_splitting: bool = False  # else a request above max_batch_size is refused

    def __post_init__(self):
        """Refuse what cannot be.

        Raises:
            UserError: names the value.
        """
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"batching parameters: {name} is {getattr(self, name)}, expected at least 1.")
        if self.batch_timeout_micros < 0:
            raise UserError(f"batching parameters: batch_timeout_micros is {self.batch_timeout_micros}, below 0.")
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise UserError(
                f"batching parameters: allowed_batch_sizes is {list(sizes)}, expected to rise and to end with "
                f"max_batch_size, which is {self.max_batch_size}."
            )


def read_parameters(path: str | Path) -> BatchingParameters:
    """A batching parameters file; what it does not name keeps its default.

    Raises:
        UserError: it cannot be read, or a value is impossible.
    """
    parsed = parse_file("BatchingParameters", path)
    given = {
        field.name: getattr(parsed, field.name).value
        for field in dataclasses.fields(BatchingParameters)
        if field.name != "allowed_batch_sizes" and parsed.HasField(field.name)
    }
    return BatchingParameters(**given, allowed_batch_sizes=tuple(parsed.allowed_batch_sizes))


def run_alone(servable: Model, signature_name: str, inputs: dict, deadline: float) -> dict[str, np.ndarray]:
    """One request by itself: what is done without batching."""
    servable.check(signature_name, inputs)
    return servable.run(signature_name, inputs, deadline)


@dataclasses.dataclass
class _Task:
    inputs: dict
    size: int
    deadline: float
    future: concurrent.futures.Future = dataclasses.field(default_factory=concurrent.futures.Future)


@dataclasses.dataclass
class _Batch:
    servable: Model
    signature_name: str
    due: float
    tasks: list = dataclasses.field(default_factory=list)

    @property
    def size(self):
        return sum(task.size for task in self.tasks)


class Batcher:
    """Joins requests of the same version, signature and shapes while all threads are busy.

    Args:
        parameters: sizes and times.
        observe: called with the size of every batch that runs, padding included.
    """

    def __init__(self, parameters: BatchingParameters, observe=lambda size: None):
        self._parameters, self._observe = parameters, observe
        self._open: dict[tuple, _Batch] = {}  # the batch of each kind that still takes tasks
        self._queue: collections.deque[_Batch] = collections.deque()  # all that wait, oldest first
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what waits, then end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(self, servable: Model, signature_name: str, inputs: dict, deadline: float) -> dict[str, np.ndarray]:
        """One request, as part of a batch; the same answer as by itself where the model's rows are independent.

        Raises:
            ServingError: as `Model.check` and `Model.run`; no first dimension in common, too large for a batch,
                or the queue is full.
        """
        servable.check(signature_name, inputs)
        sizes = {len(array) if array.ndim else None for array in inputs.values()}
        if None in sizes or len(sizes) != 1:
            raise invalid("Batching input tensors must all have rank 1 or more and the same 0th dimension size")
        (size,) = sizes
        limit = self._parameters.max_batch_size
        if size > limit and not self._parameters.enable_large_batch_splitting:
            raise invalid(f"Task size {size} is larger than maximum input batch size {limit}")
        pieces = [
            {name: array[start : start + limit] for name, array in inputs.items()}
            for start in range(0, max(size, 1), limit)
        ]
        tasks = [_Task(piece, len(next(iter(piece.values()))), deadline) for piece in pieces]
        self._submit(servable, signature_name, tasks)
        # Every future is waited for: the version must not be freed while a batch of this request runs.
        concurrent.futures.wait([task.future for task in tasks])
        parts = [task.future.result() for task in tasks]
        return {name: _join([part[name] for part in parts]) for name in parts[0]}

    def _submit(self, servable, signature_name, tasks):
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in tasks[0].inputs.items()))
        kind = (id(servable), signature_name, shapes)
        with self._changed:
            if self._stopping:
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down")
            if len(self._queue) + len(tasks) > self._parameters.max_enqueued_batches:
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"The batch scheduling queue to which this task was submitted is full; "
                    f"{len(self._queue)} batches wait",
                )
            for task in tasks:
                batch = self._open.get(kind)
                if batch is None or batch.size + task.size > self._parameters.max_batch_size:
                    due = time.monotonic() + self._parameters.batch_timeout_micros / 1e6
                    if batch is not None:
                        batch.due = 0.0  # it takes no more, so it waits no longer
                    batch = self._open[kind] = _Batch(servable, signature_name, due)
                    self._queue.append(batch)
                batch.tasks.append(task)
                if batch.size == self._parameters.max_batch_size:
                    batch.due = 0.0
            self._changed.notify_all()

    def _work(self):
        while (batch := self._take()) is not None:
            self._run(batch)

    def _take(self):
        """The oldest batch that is full or has waited long enough; None once there is nothing more to do."""
        with self._changed:
            while True:
                now = time.monotonic()
                for batch in self._queue:
                    if batch.due <= now or self._stopping:
                        self._queue.remove(batch)
                        self._open = {kind: other for kind, other in self._open.items() if other is not batch}
                        return batch
                if self._stopping:
                    return None
                self._changed.wait(min((batch.due - now for batch in self._queue), default=None))

    def _run(self, batch):
        tasks = [task for task in batch.tasks if not _expire(task)]
        if not tasks:
            return
        try:
            results = self._run_together(batch, tasks)
        except ServingError as error:
            if len(tasks) == 1 or error.code != Code.INVALID_ARGUMENT:
                for task in tasks:
                    task.future.set_exception(error)
                return
            # One request's fault, say a broken PNG: the others must not hear of it.
            for task in tasks:
                self._run(_Batch(batch.servable, batch.signature_name, 0.0, [task]))
        except Exception as error:  # a defect must reach the requests that wait, and not end this thread
            for task in tasks:
                task.future.set_exception(error)
        else:
            for task, result in zip(tasks, results, strict=True):
                task.future.set_result(result)

    def _run_together(self, batch, tasks):
        total = sum(task.size for task in tasks)
        padded = next((size for size in self._parameters.allowed_batch_sizes if size >= total), total)
        inputs = {}
        for name in tasks[0].inputs:
            arrays = [task.inputs[name] for task in tasks]
            inputs[name] = _join(arrays + [arrays[0][:1]] * (padded - total if total else 0))
        self._observe(padded)
        outputs = batch.servable.run(batch.signature_name, inputs, max(task.deadline for task in tasks))
        for array in outputs.values():
            if not array.ndim or len(array) != padded:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        ends = np.cumsum([task.size for task in tasks])
        return [
            {name: array[end - task.size : end] for name, array in outputs.items()}
            for task, end in zip(tasks, ends, strict=True)
        ]


def _expire(task):
    if time.monotonic() < task.deadline:
        return False
    task.future.set_exception(ServingError(Code.DEADLINE_EXCEEDED, "Timed out while waiting for a batch"))
    return True


def _join(arrays):
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
