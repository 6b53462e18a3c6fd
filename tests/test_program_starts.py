"""A start that loads nothing is one as users have it, so that what other tests find in it holds for those, too."""

import pytest
from program_starts import start


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--mode=evaluate"], 2), (["--no_such_flag"], 2)])
def test_a_fork_says_what_a_new_start_says(tmp_path, arguments, status):
    found = []
    for anew in (False, True):
        process = start(tmp_path, *arguments, anew=anew)
        found.append((*process.communicate(), process.returncode))
    assert found[0] == found[1]
    assert found[0][-1] == status
    assert any(found[0][:2])
