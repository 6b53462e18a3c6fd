"""A start that loads nothing is one as users have it, so that what other tests find in it holds for those, too."""

import os

import pytest
from program_starts import FORKS_TOO, start


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--mode=evaluate"], 2), (["--no_such_flag"], 2)])
def test_a_fork_says_what_a_new_start_says(tmp_path, arguments, status):
    found = []
    for anew in (False, True):
        process = start(tmp_path, *arguments, anew=anew)
        found.append((*process.communicate(), process.returncode))
    assert found[0] == found[1]
    assert found[0][-1] == status
    assert any(found[0][:2])


def test_a_fork_leads_its_own_group_before_anybody_can_ask(tmp_path):
    """Else a signal to its group, with which Jupyter ends a kernel, reaches this process and all that started it."""
    for _ in range(10):
        process = start(tmp_path, "--help", start_new_session=True, env={**os.environ, FORKS_TOO: "1"})
        assert os.getpgid(process.pid) == process.pid
        process.kill()
        process.communicate()
