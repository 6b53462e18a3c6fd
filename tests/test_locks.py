"""One process at work in a folder."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from descargan_tf import locks
from descargan_tf.errors import UserError
from descargan_tf.locks import LOCK, alone_in, refuse_if_held

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import pathlib, sys
from descargan_tf.locks import alone_in
with alone_in(pathlib.Path(sys.argv[1]), "no"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_and_told_who_is_there(tmp_path, holder):
    with pytest.raises(UserError) as waiting, alone_in(tmp_path, "{x} is in use by {holder}"):
        pass
    with pytest.raises(UserError) as asking:
        refuse_if_held(tmp_path, "{x} is in use by {holder}")
    for caught in (waiting, asking):
        assert str(caught.value).startswith(f"{{x}} is in use by process {holder.pid} on ")
    assert f"process {holder.pid}" in (tmp_path / LOCK).read_text()  # asking has changed nothing


def test_another_way_to_the_folder_is_the_same_folder(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for path in (tmp_path / "link", tmp_path / "link" / ".." / tmp_path.name):
        with pytest.raises(UserError, match="no"), alone_in(path, "no"):
            pass


def test_it_dies_with_its_process(tmp_path, holder):
    holder.kill()
    holder.wait()
    with alone_in(tmp_path, "no"):
        pass


def test_it_is_free_after_the_block(tmp_path):
    for _ in range(2):
        with alone_in(tmp_path, "no") as held:
            assert len(held) == 1
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    refuse_if_held(tmp_path, "no")


def test_children_that_inherit_it_hold_it_after_their_parent(tmp_path):
    with alone_in(tmp_path, "no") as held:
        left_behind = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held)
    with pytest.raises(UserError), alone_in(tmp_path, "no"):
        pass
    left_behind.communicate()
    with alone_in(tmp_path, "no"):
        pass


def test_children_that_do_not_inherit_it_do_not_hold_it(tmp_path):
    with alone_in(tmp_path, "no"):
        left_behind = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with alone_in(tmp_path, "no"):
        pass
    left_behind.communicate()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path, "no") as held:
        assert held == ()
    assert capsys.readouterr().out == (
        f"{tmp_path} cannot be locked ({os.strerror(number)}): see to it that no other process works there\n"
    )
    refuse_if_held(tmp_path, "no")


def test_a_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with alone_in(tmp_path, "no"):
        pass
    assert "cannot be locked (not on this system)" in capsys.readouterr().out


def test_asking_leaves_nothing_and_needs_no_folder(tmp_path):
    refuse_if_held(tmp_path / "none", "no")
    (tmp_path / "file").touch()
    refuse_if_held(tmp_path / "file", "no")
    refuse_if_held(tmp_path, "no")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="none/lock cannot be written: No such file"), alone_in(tmp_path / "none", "no"):
        pass
