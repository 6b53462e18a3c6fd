"""The training loop alone, with a toy method: what a run leaves behind, and that stopping it changes nothing."""

import json
import math
import resource
import signal
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from toy_training import (
    SMALL,
    Toy,
    assert_same_checkpoint,
    assert_same_metrics,
    fake_rounds,
    lines,
    names_in,
    on_round,
    scripted,
    send,
    trainer,
)

from descargan_tf import signals
from descargan_tf.data.prepared import StoredImages
from descargan_tf.errors import UserError
from descargan_tf.training import checkpoint
from descargan_tf.training.loop import Interrupted
from descargan_tf.types import Split


def test_toy_training_resumed_twice_equals_one_in_one_go(tmp_path):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", max_steps=9, checkpoint_every_steps=3, traced=True).run()
    keras.utils.set_random_seed(1)
    for rounds in (3, 4):  # at steps 3 and 7, where no validation is due
        stopped = trainer(tmp_path / "b", max_steps=9, checkpoint_every_steps=3, traced=True)
        with pytest.raises(Interrupted):
            on_round(stopped, rounds, send(signal.SIGINT)).run()
    trainer(tmp_path / "b", max_steps=9, checkpoint_every_steps=3, traced=True).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "9", tmp_path / "b" / "checkpoints" / "9")
    assert_same_metrics(tmp_path / "a", tmp_path / "b")


def test_a_shortened_schedule_is_the_same_after_a_resumption(tmp_path):
    changes = {"max_steps": 5, "warmup_steps": 4, "decay_steps": 16, "checkpoint_every_steps": 5, "short": True}
    said = "--max_steps=5 is too short for --warmup_steps=4 and --decay_steps=16: shortened in proportion, to 1 and 4 "
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", **changes).run()
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        on_round(trainer(tmp_path / "b", **changes), 2, send(signal.SIGINT)).run()
    trainer(tmp_path / "b", **changes).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "5", tmp_path / "b" / "checkpoints" / "5")
    for folder, times in (("a", 1), ("b", 2)):  # in one line, each time that it begins
        assert (tmp_path / folder / "train.log").read_text().count(said) == times


def test_without_the_clock_an_interrupted_training_logs_the_same_to_the_byte(tmp_path, monkeypatch):
    """Stopped amid two windows: that of a line of the log, and that in which a critic is watched."""
    scores = dict.fromkeys(("real", "fake", "generator"), 1.0)
    monkeypatch.setattr(Toy, "critic_scores", lambda self, terms: scores)

    def begun(folder):
        terms = {"discriminator/gradient_penalty": 1.0}
        often = {"log_every_steps": 7, "checkpoint_every_steps": 20, "validate_every_steps": 1000}
        values = trainer(tmp_path / folder, scripted(1.0), max_steps=60, deterministic=True, **often)
        return fake_rounds(values, lambda step: {"generator/match": 1 / (step + 2), **terms})

    begun("a").run()
    for rounds in (11, 33):  # the next is the one after the last saved
        with pytest.raises(Interrupted):
            on_round(begun("b"), rounds, send(signal.SIGINT)).run()
    begun("b").run()
    found = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in "ab"]
    assert found[0] == found[1]
    assert [line["critics/dead"] for line in lines(tmp_path / "b", "train")] == [0.0] * 7 + [1.0] * 2
    assert {line["seconds_per_round"] for line in lines(tmp_path / "b", "train")} == {None}


def test_a_killed_training_goes_on_from_its_last_checkpoint_without_double_lines(tmp_path):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", max_steps=7, checkpoint_every_steps=3, short=True).run()

    def die():
        raise SystemExit

    keras.utils.set_random_seed(1)
    with pytest.raises(SystemExit):
        on_round(trainer(tmp_path / "b", max_steps=7, checkpoint_every_steps=3, short=True), 6, die).run()
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "gro')  # cut short
    trainer(tmp_path / "b", max_steps=7, checkpoint_every_steps=3, short=True).run()
    assert_same_metrics(tmp_path / "a", tmp_path / "b")
    for name in ("7", "best"):
        assert_same_checkpoint(tmp_path / "a" / "checkpoints" / name, tmp_path / "b" / "checkpoints" / name)


@pytest.mark.parametrize("step", [4, 5])
def test_an_interruption_where_a_validation_is_due_does_not_lose_it(tmp_path, step):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", short=True).run()
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        on_round(trainer(tmp_path / "b", short=True), step, send(signal.SIGTERM)).run()
    trainer(tmp_path / "b", short=True).run()
    assert [line["step"] for line in lines(tmp_path / "b", "validate")] == [2, 4, 5]
    assert_same_metrics(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130), (signal.SIGHUP, "SIGHUP", 129)],
)
def test_each_signal_saves_the_round_at_hand_and_gets_its_handler_back(tmp_path, capsys, number, name, status):
    before = [signal.getsignal(each) for each in signals.ENDINGS]
    stopped = fake_rounds(trainer(tmp_path, scripted(), validate_every_steps=50, max_steps=100))
    with pytest.raises(Interrupted) as caught:
        on_round(stopped, 8, send(number)).run()
    assert caught.value.status == status
    assert str(caught.value).startswith(f"{name} at step 8: saved")
    assert f"{name}: saving after this round" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "checkpoints" / "8")[1]["step"] == 8
    assert [signal.getsignal(each) for each in signals.ENDINGS] == before


def test_a_finished_run_says_that_nothing_is_to_do(tmp_path, capsys):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    before = (tmp_path / "metrics.jsonl").read_text()
    again = trainer(tmp_path, scripted())
    assert again.run() == 5
    assert "nothing to do: step 5 of --max_steps=5 is reached" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_training_ends_when_its_minutes_are_over_and_saves(tmp_path, capsys):
    training = trainer(tmp_path, max_steps=10**6, max_minutes=1e-9, short=True)
    assert training.run() == 1
    assert "--max_minutes=1e-09 are over: ends at step 1 of 1000000" in capsys.readouterr().out
    assert names_in(tmp_path / "checkpoints") == ["1", "best"]


def test_minutes_count_over_resumed_trainings(tmp_path, capsys):
    trainer(tmp_path, max_steps=2, short=True).run()
    about = json.loads((tmp_path / "checkpoints" / "2" / "checkpoint.json").read_text())
    used = about["trained_seconds"]
    assert used > 0
    # A little less: (used / 60) * 60 can round to more than used.
    assert trainer(tmp_path, max_steps=10**6, max_minutes=0.999 * used / 60, short=True).run() == 2
    assert "were used up by step 2" in capsys.readouterr().out


def test_a_finished_run_can_be_trained_longer(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    assert fake_rounds(trainer(tmp_path, scripted(4, 5), max_steps=7)).run() == 7
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2, 3, 4, 5, 6, 7]


def test_the_best_is_the_one_of_the_largest_selection(tmp_path):
    run = fake_rounds(trainer(tmp_path, scripted(0.2, 0.9, 0.9, 0.4), max_steps=8, keep_checkpoints=1))
    run.run()
    assert names_in(tmp_path / "checkpoints") == ["8", "best"]
    about = checkpoint.load(tmp_path / "checkpoints" / "best")[1]
    assert (about["step"], about["best_selection"]) == (4, 0.9)  # of equal ones the first
    assert [line["selection"] for line in lines(tmp_path, "validate")] == [0.2, 0.9, 0.9, 0.4]


def test_a_resumed_run_does_not_forget_the_best(tmp_path):
    first = fake_rounds(trainer(tmp_path, scripted(0.9), max_steps=8))
    with pytest.raises(Interrupted):
        on_round(first, 3, send(signal.SIGTERM)).run()
    fake_rounds(trainer(tmp_path, scripted(0.2, 0.3, 0.8), max_steps=8)).run()
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 2


def test_a_selection_that_is_not_a_number_never_wins(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(math.nan, 0.1, math.nan))).run()
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_term(tmp_path, value):
    diverging = fake_rounds(
        trainer(tmp_path, scripted(1.0, 1.0)), lambda step: {"generator/match": value} if step == 3 else {}
    )
    with pytest.raises(UserError) as caught:
        diverging.run()
    message = str(caught.value)
    assert message.startswith(f"generator/match is {value} at step 3: the training has come apart and is stopped. ")
    assert str(tmp_path / "checkpoints") in message
    assert names_in(tmp_path / "checkpoints") == ["2", "best"]
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2]


def test_metrics_are_means_over_the_rounds_since_the_last_line(tmp_path):
    values = trainer(tmp_path, scripted(1.0), log_every_steps=3, validate_every_steps=9, max_steps=5)
    fake_rounds(values, lambda step: {"generator/match": float(step)}).run()
    assert [(line["step"], line["generator/match"]) for line in lines(tmp_path, "train")] == [(3, 2.0), (5, 4.5)]


def test_a_disk_that_fills_up_ends_the_run_with_one_clear_line(tmp_path, monkeypatch):
    stopped = fake_rounds(trainer(tmp_path, scripted(1.0, 2.0)))

    def fill(file, **_):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    stopped_at_four = on_round(stopped, 4, lambda: monkeypatch.setattr(np, "savez", fill))
    with pytest.raises(UserError, match="No space left on device"):
        stopped_at_four.run()
    assert names_in(tmp_path / "checkpoints") == ["2", "best"]
    assert checkpoint.load(tmp_path / "checkpoints" / "best")[1]["step"] == 2


def test_a_file_system_that_takes_no_more_leaves_the_last_checkpoint_and_the_next_start_goes_on(tmp_path):
    """The system itself refuses: no file of this process may become larger than half a checkpoint."""
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", checkpoint_every_steps=1, short=True).run()
    keras.utils.set_random_seed(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    stopped = trainer(tmp_path / "b", checkpoint_every_steps=1, short=True)

    def fill():
        size = (tmp_path / "b" / "checkpoints" / "2" / "state.npz").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))

    try:
        with pytest.raises(
            UserError, match=r"b/checkpoints/3 could not be written: File too large\. .*free space and "
        ):
            on_round(stopped, 3, fill).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_in(tmp_path / "b" / "checkpoints") == ["1", "2", "best"]
    trainer(tmp_path / "b", checkpoint_every_steps=1, short=True).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "5", tmp_path / "b" / "checkpoints" / "5")


def test_data_that_vanish_are_named_and_when_they_are_back_the_run_goes_on(tmp_path):
    (tmp_path / "data").mkdir()
    size = SMALL.images.shape[1]
    np.save(tmp_path / "data" / "a.npy", np.random.default_rng(0).integers(0, 65536, (11, size, size), np.uint16))
    on_disk = StoredImages([(tmp_path / "data" / "a.npy", np.arange(11))], size, 2 / 65535, -1)
    split = Split(on_disk, SMALL.labels, None, SMALL.names)
    often = {"max_steps": 30, "checkpoint_every_steps": 3, "validate_every_steps": 30, "short": True}
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", split=split, **often).run()
    keras.utils.set_random_seed(1)
    gone = on_round(
        trainer(tmp_path / "b", split=split, **often), 5, lambda: (tmp_path / "data").rename(tmp_path / "c")
    )
    with pytest.raises(UserError) as caught:
        gone.run()
    assert str(caught.value) == (
        f"{tmp_path / 'data' / 'a.npy'}: cannot be read: No such file or directory: bring the data back and give the "
        "same command, or prepare it again (--mode=prepare) into another folder."
    )
    (tmp_path / "c").rename(tmp_path / "data")
    trainer(tmp_path / "b", split=split, **often).run()
    assert_same_checkpoint(tmp_path / "a" / "checkpoints" / "30", tmp_path / "b" / "checkpoints" / "30")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl"])
def test_a_log_that_cannot_be_written_is_the_users_error(tmp_path, name, monkeypatch):
    stopped = fake_rounds(trainer(tmp_path, scripted(1.0, 2.0, 3.0)))
    if name == "metrics.jsonl":
        monkeypatch.setattr("descargan_tf.training.writer.Writer._keep_until", lambda *_: None)  # /dev/full has no end
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        stopped.run()


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path):
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "a", max_steps=7, decay_steps=0, short=True).run()
    keras.utils.set_random_seed(1)
    trainer(tmp_path / "b", max_steps=6, decay_steps=0, short=True).run()
    checkpoints = tmp_path / "b" / "checkpoints"
    (checkpoints / "6" / "state.npz").write_bytes(b"half")
    (checkpoints / "best" / "checkpoint.json").write_text("{}")
    trainer(tmp_path / "b", max_steps=7, decay_steps=0, short=True).run()
    log = (tmp_path / "b" / "train.log").read_text()
    for name, then in (("6", "going on from step 4, the latest that is whole"), ("best", "the best of the next")):
        assert f"WARNING: {checkpoints / name} is damaged (the sha256 of " in log
        assert f") and set aside as {name}.damaged; {then}" in log
        assert (checkpoints / f"{name}.damaged").is_dir()
    assert "resuming at step 4" in log
    straight, found = (checkpoint.load(folder / "checkpoints" / "7")[0] for folder in (tmp_path / "a", tmp_path / "b"))
    assert {name: array.tobytes() for name, array in straight.items()} == {
        name: array.tobytes() for name, array in found.items()
    }
    best = max(lines(tmp_path / "b", "validate")[2:], key=lambda line: line["selection"])  # of those since
    assert checkpoint.load(checkpoints / "best")[1]["step"] == best["step"] == 6


def test_where_no_checkpoint_is_whole_the_training_does_not_begin_anew(tmp_path):
    fake_rounds(trainer(tmp_path, scripted(1, 2, 3))).run()
    (tmp_path / "checkpoints" / "5" / "state.npz").write_bytes(b"half")
    (tmp_path / "checkpoints" / "4" / "checkpoint.json").unlink()
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=f"none of the checkpoints in {tmp_path / 'checkpoints'} is whole: .*/5 is not"):
        trainer(tmp_path, scripted(), max_steps=9).run()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert names_in(tmp_path / "checkpoints") == ["4", "5", "best"]


@pytest.mark.parametrize("batch_size", [2, 6, 9])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(tmp_path, two_replicas, batch_size):
    def untouched():
        raise AssertionError("refused before anything is built")

    with pytest.raises(UserError) as caught:
        trainer(tmp_path, method=untouched, strategy=two_replicas, batch_size=batch_size)
    assert str(caught.value).startswith(f"--batch_size={batch_size} cannot be split over 2 devices")
    assert str(caught.value).endswith("use a multiple of 4.")


def test_two_replicas_see_the_same_batches_after_a_resumption(tmp_path, two_replicas):
    def run(folder, seen, stop_at=None):
        training = fake_rounds(trainer(folder, scripted(1, 2, 3), strategy=two_replicas, batch_size=8))
        fake = training.engine.train_step.round

        def record(batches, rate_factor):
            assert len(batches) == 2  # as many as the phase of most updates wants
            local = [
                [np.asarray(x) for x in two_replicas.experimental_local_results(part)] for b in batches for part in b
            ]
            seen.append(local)
            return fake(batches, rate_factor)

        training.engine.train_step.round = record
        if stop_at:
            on_round(training, stop_at, send(signal.SIGTERM))
            with pytest.raises(Interrupted):
                training.run()
        else:
            training.run()

    straight, resumed = [], []
    run(tmp_path / "a", straight)
    run(tmp_path / "b", resumed, stop_at=3)
    run(tmp_path / "b", resumed)
    assert len(straight) == len(resumed) == 5
    for a, b in zip(straight, resumed, strict=True):
        for first, second in zip(a, b, strict=True):
            assert [x.shape for x in first] == [(2, 8, 8, 1)] * 2
            assert not np.array_equal(first[0], first[1])
            np.testing.assert_array_equal(first, second)


def test_the_rate_that_is_applied_is_the_schedules(tmp_path):
    """Adam's first steps have the size of the rate."""
    training = trainer(tmp_path, max_steps=10, warmup_steps=4, decay_steps=5)
    given = []
    whole = training.engine.train_step.round

    def spy(batches, rate_factor):
        before = [np.asarray(w) for w in training.engine.method.networks["generator"].weights]
        logs = whole(batches, rate_factor)
        after = training.engine.method.networks["generator"].weights
        moved = max(np.abs(np.asarray(b) - a).max() for a, b in zip(before, after, strict=True))
        given.append((float(rate_factor), moved))
        return logs

    training.engine.train_step.round = spy
    training.run()
    assert [factor for factor, _ in given] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert given[0][1] == pytest.approx(0.25e-2, rel=1e-3)
    assert given[-1][1] < given[3][1]


def test_with_a_time_limit_the_decay_ends_where_the_time_does(tmp_path, monkeypatch):
    training = trainer(tmp_path, max_steps=100, decay_steps=40, max_minutes=5)
    monkeypatch.setattr(training, "_seconds", lambda: 60.0)
    assert training._factor(99) > 0
    bar = types.SimpleNamespace(total=100)
    # 40 rounds in the four minutes left: 50 in all, the last 20 with falling rates
    training._expect_length(10, 6.0, bar)
    assert [training._factor(n) for n in (30, 40, 50)] == pytest.approx([1, 0.5, 0])
    assert bar.total == 50
    training._expect_length(10, 1.0, bar)  # never longer than --max_steps
    assert bar.total == 100
    assert [training._factor(n) for n in (60, 80, 100)] == pytest.approx([1, 0.5, 0])
    training._expect_length(10, None, bar)  # no pace known yet: as before
    assert training._length == 1.0


def test_a_time_limit_is_part_of_the_time_left(tmp_path, monkeypatch, capsys):
    training = trainer(tmp_path, max_steps=1000, max_minutes=2)
    monkeypatch.setattr(training, "_seconds", lambda: 20.0)
    assert training._seconds_left(1.0, 990) == 100.0
    assert training._seconds_left(0.05, 990) == pytest.approx(49.5)
    training._say_duration(1.0, 990)
    assert "--max_minutes=2 will end it after about 100 of them" in capsys.readouterr().out
