"""Work spread over processes, its results in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from descargan_tf import signals
from descargan_tf.errors import UserError


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable, tasks: Sequence[tuple], num_workers: int) -> Iterator[Any]:
    """Yield `function(*task)` of every task, in their order; in this process where one is enough.

    Close it where it is left early: then what has not begun does not begin, and what has is waited for.

    Args:
        function: at the top of a module; what it takes and gives can be pickled.
        tasks: arguments of each call.
        num_workers: processes at most.

    Raises:
        UserError: a process was ended from outside; and what `function` raises.
    """
    num_workers = min(num_workers, len(tasks))
    if num_workers <= 1:  # a process of its own would take longer to start
        for task in tasks:
            yield function(*task)
        return
    # spawn: the caller may hold TensorFlow's threads, which a fork would not copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, signals.end_with_parent) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that shared the work was ended from outside, as by a system short of memory; with fewer "
                "cores (taskset -c 0) it takes less."
            ) from error
        finally:
            for future in futures:
                future.cancel()
