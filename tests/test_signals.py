"""How work is ended from outside, and what becomes of a program whose output nobody reads any more."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from descargan_tf import program, signals
from descargan_tf.errors import UserError
from descargan_tf.export.client import main as client_main
from descargan_tf.main import main
from descargan_tf.training.loop import Interrupted

ROOT = Path(__file__).resolve().parent.parent
EVERY = pytest.mark.parametrize("number", signals.ENDINGS, ids=signals.name_of)


def handlers():
    return [signal.getsignal(number) for number in signals.ENDINGS]


# ---- signals


def test_the_ends_that_there_are():
    assert {signals.name_of(number) for number in signals.ENDINGS} == {"SIGINT", "SIGTERM", "SIGHUP"}


@EVERY
def test_a_signal_is_raised_where_the_program_is_and_handlers_come_back(number):
    before = handlers()
    with pytest.raises(signals.Stopped) as caught, signals.raised():
        signal.raise_signal(number)
    assert (caught.value.number, caught.value.status) == (number, 128 + number)
    assert str(caught.value) == f"{signals.name_of(number)}: stopped"
    assert handlers() == before


@EVERY
def test_what_is_ignored_stays_ignored(number):
    """SIGHUP under nohup, SIGINT of what a script put in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.raised():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_what_comes_with_the_first_does_not_stop_the_cleaning_up():
    cleaned = []

    def work():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            for number in signals.ENDINGS:
                signal.raise_signal(number)
            cleaned.append(1)

    with pytest.raises(signals.Stopped) as caught, signals.raised():
        work()
    assert cleaned == [1]
    assert caught.value.number == signal.SIGHUP


def test_a_signal_that_comes_later_is_raised_again(monkeypatch):
    """As one that arrives in a destructor raises nothing that anybody would see."""
    monkeypatch.setattr(signals, "_TOGETHER_SECONDS", -1.0)
    with signals.raised():
        for number in (signal.SIGTERM, signal.SIGTERM):
            with pytest.raises(signals.Stopped):
                signal.raise_signal(number)


def test_an_ending_takes_note_and_only_a_second_press_raises(monkeypatch, capsys):
    ending = signals.Ending("saving")
    with signals.caught(ending):
        assert ending.number is None
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert ending.number == signal.SIGHUP
        monkeypatch.setattr(signals, "_TOGETHER_SECONDS", -1.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(signals.Stopped) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.status == 130
    assert capsys.readouterr().out == "SIGHUP: saving\n"


def test_a_block_that_must_not_be_left_half_done_is_left_after_it():
    done = []

    def work():
        with signals.held():
            signal.raise_signal(signal.SIGTERM)
            done.append(1)
        done.append(2)

    with pytest.raises(signals.Stopped), signals.raised():
        work()
    assert done == [1]


def test_the_innermost_block_says_what_is_left():
    with (
        pytest.raises(signals.Stopped, match=r"SIGINT: stopped; 3 done") as caught,
        signals.leaving("nothing"),
        signals.leaving(lambda: "3 done"),
    ):
        raise signals.Stopped(signal.SIGINT)
    with pytest.raises(signals.Stopped, match="SIGTERM at step 7"), signals.leaving("nothing"):
        raise Interrupted(signal.SIGTERM, 7)
    assert caught.value.status == 130


def test_raised_within_raised_is_one():
    with signals.raised():
        before = handlers()
        with signals.raised():
            assert handlers() == before


def test_other_threads_leave_signals_alone():
    before, seen = handlers(), []

    def work():
        with signals.raised(), signals.held():
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# ---- from start to exit status


@EVERY
def test_a_program_ends_with_a_line_and_the_status_that_shells_expect(number, capsys):
    assert program.run(lambda: signal.raise_signal(number)) == 128 + number
    assert capsys.readouterr().err == f"{signals.name_of(number)}: stopped\n"


def test_an_interrupt_that_is_no_signals_ends_as_ctrl_c_does(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert program.run(interrupt) == 130
    assert capsys.readouterr().err == "SIGINT: stopped\n"


def test_a_users_error_is_one_line_and_status_two(capsys):
    def refuse():
        raise UserError("--x=1: no")

    assert program.run(refuse) == 2
    assert capsys.readouterr().err == "error: --x=1: no\n"
    assert program.run(lambda: 1) == 1


class ResourceExhaustedError(Exception):
    """TensorFlow's, by its name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 TiB"),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("can't start new thread"),
    ],
)
def test_want_of_memory_is_one_line_and_status_two(capsys, error):
    def want():
        raise error

    assert program.run(want) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is not enough memory (`ulimit -a` shows what this process may use). What has ")
    assert line.endswith(f": {error}")


def test_what_else_is_raised_keeps_its_traceback():
    def fail():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        program.run(fail)


@contextlib.contextmanager
def without_reader(*names):
    """Standard streams into a pipe that nobody reads; `head` has seen enough. (pytest sets its own for each phase.)"""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream, pytest.MonkeyPatch.context() as patch:
        for name in names or ("stdout",):
            patch.setattr(sys, name, stream)
        yield stream


def says(times, line="a line"):
    for _ in range(times):
        print(line)
    return 0


@pytest.mark.parametrize("times", [1, 10_000])
def test_a_reader_who_left_ends_a_program_without_a_word(capsys, times):
    with without_reader() as stream:
        assert program.run(lambda: says(times)) == 141
        assert sys.stdout is stream
    assert capsys.readouterr() == ("", "")


def test_work_that_is_worth_more_than_its_messages_goes_on(capsys):
    def work():
        program.go_on_unheard()
        return says(100) + 7

    with without_reader():
        assert program.run(work) == 7
    assert capsys.readouterr() == ("", "")


def test_errors_that_nobody_reads_keep_their_status(capsys):
    def refuse():
        raise UserError("no")

    with without_reader("stdout", "stderr"):  # 2>&1 | head
        assert program.run(refuse) == 2
        assert program.run(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_is_no_reason_to_end(monkeypatch, capsys):
    """What was sent to the background before its window was closed gets an input/output error for each line."""
    terminal, end = os.openpty()
    os.close(terminal)
    with open(end, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert program.run(lambda: says(3)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
def test_output_to_a_full_disk_is_named_for_what_it_is(monkeypatch, capsys):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert program.run(lambda: says(1)) == 2
    assert capsys.readouterr().err == "error: what is printed cannot be written: No space left on device.\n"


def test_a_line_can_be_read_when_it_is_printed():
    reading, writing = os.pipe()
    seen = []

    def work():
        print("one")
        seen.append(os.read(reading, 100))
        return 0

    with open(writing, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert program.run(work) == 0
    os.close(reading)
    assert seen == [b"one\n"]


def server_main(arguments):
    from descargan_tf.export.embedded.server import main as start  # which loads TensorFlow

    return start(["server", *arguments])


@pytest.mark.parametrize("argument", ["--help", "--helpfull"])
@pytest.mark.parametrize("command", [lambda given: main(["main", *given]), server_main], ids=["main", "server"])
def test_help_into_head(capsys, command, argument):
    with without_reader():
        assert command([argument]) == 141
    assert capsys.readouterr() == ("", "")


def test_the_clients_help_into_head(capsys):
    with without_reader():
        assert client_main(["--help"]) == 141
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("redirection", "status"), [("| true", 141), (">&-", 0), (">&- 2>&- <&-", 0)])
def test_help_of_a_process(redirection, status):
    """With no reader, with closed standard streams."""
    # It begins when the reader is gone for certain.
    command = f"set -o pipefail; (sleep 0.5; exec {sys.executable} -m descargan_tf.main --help) {redirection}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "")
