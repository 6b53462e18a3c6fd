"""Work over processes: results in order, and what ends one of them is said."""

import contextlib
import os

import pytest
from process_tasks import end_at, fail_at, square

from descargan_tf import processes
from descargan_tf.errors import UserError


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(num_workers):
    results = [*processes.in_order(square, [(number,) for number in range(20)], num_workers)]
    assert [value for value, _ in results] == [number**2 for number in range(20)]
    assert (os.getpid() in {process for _, process in results}) == (num_workers == 1)


def test_one_task_or_none_needs_no_process():
    assert [*processes.in_order(square, [(3,)], 8)] == [(9, os.getpid())]
    assert [*processes.in_order(square, [], 8)] == []


def test_what_a_task_raises_comes_behind_the_results_before_it(kept_processes):
    found = []
    with pytest.raises(UserError, match="3 fails"):
        found.extend(processes.in_order(fail_at, [(number, 3) for number in range(6)], 2))
    with contextlib.closing(processes.in_order(fail_at, [(number, 3) for number in range(6)], 2)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]


def test_a_process_that_was_ended_from_outside_is_told_with_the_remedy():
    with pytest.raises(UserError, match=r"was ended from outside.*with fewer cores \(taskset -c 0\) it takes less"):
        list(processes.in_order(end_at, [(number, 2) for number in range(6)], 2))
