"""A grid of runs: what it starts, what it leaves alone, how it stops; with small scripts in place of trainings.

The last part is the real thing once: tiny methods, one of which fails, to the report.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from descargan_tf import signals
from descargan_tf.benchmark import grid
from descargan_tf.benchmark.grid import Grid, Run, time_left
from descargan_tf.errors import UserError
from descargan_tf.evaluation import figures
from descargan_tf.main import main
from descargan_tf.run_folder import configure

ROOT = Path(__file__).resolve().parent.parent

# ---- the list, and what it is refused for


def parsed(*arguments):
    return configure(["main", "--mode=benchmark", "--run_dir=runs/b", *arguments])


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        parsed(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_and_seeds_are_read_in_their_order():
    config = parsed("--benchmark_runs=b:3,1; a.x-2:0 ;")
    assert list(config.runs.items()) == [("b", (3, 1)), ("a.x-2", (0,))]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("descargan", "'descargan' is not <name>:<seed>,<seed>"),
        ("descargan:", "'descargan:'"),
        ("descargan:0,", "'descargan:0,'"),
        ("descargan:-1", "'descargan:-1'"),
        ("descargan:x", "'descargan:x'"),
        ("../up:0", "'../up:0'"),
        ("a:0;a:1", "'a:1' names a row or a seed twice"),
        ("a:0,0", "'a:0,0' names a row or a seed twice"),
        ("", "--benchmark_runs is missing"),
        (";;", "--benchmark_runs is missing"),
    ],
)
def test_a_list_that_cannot_be_is_refused(given, part):
    assert part in refusal(f"--benchmark_runs={given}")


def test_a_pattern_without_a_place_for_the_name_is_refused():
    message = refusal("--benchmark_runs=a:0", "--benchmark_flagfiles=configs/quick.flags")
    assert "--benchmark_flagfiles=configs/quick.flags: expected {}" in message


@pytest.mark.parametrize("flag", ["benchmark_images", "benchmark_jobs", "benchmark_validations"])
def test_numbers_begin_at_one(flag):
    assert f"--{flag}=0" in refusal("--benchmark_runs=a:0", f"--{flag}=0")


def test_other_flags_are_for_every_run_and_leave_the_benchmark_as_it_is():
    config = parsed("--benchmark_runs=a:0", "--benchmark_flags=--num_test=3", "--data_dir=a b", "--noflips")
    assert config.benchmark_flags == "--num_test=3 '--data_dir=a b' --flips=false"
    assert (config.data_dir, config.flips) == ("", True)


def test_flags_with_an_open_quote_are_refused():
    assert "--benchmark_flags=--data_dir='a: No closing quotation" in refusal(
        "--benchmark_runs=a:0", "--benchmark_flags=--data_dir='a"
    )


@pytest.mark.parametrize("flag", ["seed", "method", "max_steps", "max_minutes"])
def test_what_every_run_has_of_its_own_cannot_be_given(flag):
    message = refusal("--benchmark_runs=a:0", f"--{flag}={'vae' if flag == 'method' else 3}")
    assert f"--{flag} is set for each run of a benchmark by itself" in message


@pytest.mark.parametrize(
    ("name", "of_all"), [("quick", "--dataset=synthetic_chest --num_train=1000 --flips=false"), ("paper", "")]
)
def test_a_flagfile_names_flagfiles_of_every_method(name, of_all, monkeypatch):
    from descargan_tf.methods import METHODS

    monkeypatch.chdir(ROOT)
    config = configure(["main", f"--flagfile=configs/benchmark_{name}.flags"])
    assert (config.mode, config.run_dir) == ("benchmark", f"runs/benchmark_{name}")
    assert config.benchmark_flags == of_all
    assert set(config.runs) == set(METHODS)
    for row in config.runs:
        flagfile = config.benchmark_flagfiles.replace("{}", row)
        assert configure(["main", f"--flagfile={flagfile}", "--data_dir=d"]).method == row


# ---- runs


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(grid, "_POLL_SECONDS", 0.05)


@dataclasses.dataclass(frozen=True)
class Scripted(Run):
    """Two Python programs in place of the two commands."""

    script: str = ""

    def commands(self):
        start = f"import json, os, pathlib, signal, sys, time\nrun_dir = pathlib.Path({str(self.run_dir)!r})\n"
        if not self.is_trained:
            yield [sys.executable, "-c", start + TRAIN + self.script]
        yield [sys.executable, "-c", start + EVALUATE]


TRAIN = """
def rounds(last, seconds=0.01):
    (run_dir / "checkpoints" / str(last)).mkdir(parents=True)
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": last, "group": "train", "seconds_per_round": seconds}) + "\\n")
    (run_dir / "checkpoints" / str(last) / "checkpoint.json").write_text("{}")
"""
EVALUATE = """
(run_dir / "report.json").write_text(json.dumps({"training": {"rounds": 8}, "saliency": "none"}))
with open(run_dir / "evaluated", "a") as file:
    file.write("x")
"""
WELL = "rounds(8)"


def scripted(folder, name, script=WELL, seed=0):
    run_dir, log = folder / f"{name}{seed}", folder / "logs" / f"{name}{seed}.log"
    return Scripted(name, seed, run_dir, log, (), (), "none", 8, 4, script)


def worked(runs, jobs=2):
    finished = []
    grid = Grid(runs, jobs, finished.append)
    grid.work()
    return grid, finished


def test_every_run_is_trained_and_evaluated(tmp_path):
    runs = [scripted(tmp_path, name) for name in "abc"]
    grid, finished = worked(runs)
    assert {run.name for run in finished} == {"a", "b", "c"}
    assert all(run.is_finished for run in runs)
    assert (grid.failures, grid.stop_signal) == ({}, None)
    assert "rounds(8)" in runs[0].log.read_text()  # the command, before what it said


def test_finished_runs_are_not_run_again_and_trained_ones_only_evaluated(tmp_path):
    runs = [scripted(tmp_path, name) for name in "ab"]
    worked(runs)
    before = (runs[0].run_dir / "metrics.jsonl").stat().st_mtime_ns
    (runs[1].run_dir / "report.json").unlink()
    _, finished = worked(runs)
    assert [run.name for run in finished] == ["b"]
    assert (runs[0].run_dir / "metrics.jsonl").stat().st_mtime_ns == before
    assert (runs[0].run_dir / "evaluated").read_text() == "x"
    assert (runs[1].run_dir / "evaluated").read_text() == "xx"
    assert len((runs[1].run_dir / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_report_of_another_length_or_map_does_not_count(tmp_path):
    run = scripted(tmp_path, "a")
    worked([run])
    assert run.is_finished
    assert not dataclasses.replace(run, rounds=9).is_finished
    assert not dataclasses.replace(run, saliency="gradcam").is_finished


def test_failures_are_told_with_their_last_words_and_hide_nothing(tmp_path, capsys):
    runs = [
        scripted(tmp_path, "good"),
        scripted(tmp_path, "bad", "print('first'); print('error: out of luck', file=sys.stderr); sys.exit(2)"),
        scripted(tmp_path, "killed", "os.kill(os.getpid(), signal.SIGKILL)"),
        scripted(tmp_path, "last"),
    ]
    grid, finished = worked(runs, jobs=1)
    assert [run.name for run in finished] == ["good", "last"]
    told = {run.name: (how, lines) for run, (how, lines) in grid.failures.items()}
    assert told.keys() == {"bad", "killed"}
    assert told["bad"][0] == f"ended with status 2 (log: {runs[1].log})"
    assert told["bad"][1].splitlines()[-1] == "error: out of luck"
    assert told["killed"][0].startswith("killed by SIGKILL")
    assert "bad, seed 0: FAILED, ended with status 2" in capsys.readouterr().out


def test_a_failed_run_is_tried_again(tmp_path):
    script = """
run_dir.mkdir(exist_ok=True)
if not (run_dir / "once").exists():
    (run_dir / "once").touch()
    sys.exit(1)
rounds(8)
"""
    runs = [scripted(tmp_path, "a", script)]
    assert worked(runs)[0].failures
    grid, finished = worked(runs)
    assert not grid.failures
    assert len(finished) == 1


def test_a_command_that_ends_well_and_leaves_no_report_has_failed(tmp_path):
    run = scripted(tmp_path, "a", "rounds(7)")  # evaluation writes of eight rounds, the run wants nine
    grid, finished = worked([dataclasses.replace(run, rounds=9)])
    assert finished == []
    assert [how for how, _ in grid.failures.values()] == [f"ended with status 0 (log: {run.log})"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not tie processes to cores")
@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_share_out_the_cores(tmp_path, jobs):
    script = """
time.sleep(0.5)
rounds(8)
(run_dir / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
"""
    runs = [scripted(tmp_path, "a", script), scripted(tmp_path, "b", script)]
    worked(runs, jobs)
    cores = sorted(os.sched_getaffinity(0))
    for number, run in enumerate(runs):
        found = json.loads((run.run_dir / "cores").read_text())
        expected = cores[number::jobs] if jobs > 1 else cores
        assert found == (expected or cores)


STOPPABLE = """
def stop(number, _):
    rounds(3)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
if (run_dir / "checkpoints" / "3").exists():
    rounds(8)
else:
    run_dir.mkdir()
    (run_dir / "ready").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", signals.ENDINGS)
def test_a_signal_has_all_runs_save_and_the_same_grid_goes_on(tmp_path, number, capsys):
    runs = [scripted(tmp_path, "a", STOPPABLE), scripted(tmp_path, "b", STOPPABLE), scripted(tmp_path, "c")]

    def press():
        while not all((run.run_dir / "ready").exists() for run in runs[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    presser = threading.Thread(target=press)
    presser.start()
    before = signal.getsignal(number)
    grid, finished = worked(runs)
    presser.join()
    assert signal.getsignal(number) is before
    assert grid.stop_signal == number
    assert (finished, grid.failures) == ([], {})
    assert [run.rounds_done for run in runs] == [3, 3, 0]
    assert "a, seed 0: stopped at round 3" in capsys.readouterr().out
    grid, finished = worked(runs)
    assert {run.name for run in finished} == {"a", "b", "c"}
    assert "a, seed 0: 8 rounds, goes on after 3" in capsys.readouterr().out


def test_ctrl_c_pressed_again_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_TOGETHER_SECONDS", 0.0)
    run = scripted(tmp_path, "a", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STOPPABLE.split("\n", 5)[-1])

    def press():
        while not (run.run_dir / "ready").exists():
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    presser = threading.Thread(target=press)
    presser.start()
    started = time.monotonic()
    with pytest.raises(signals.Stopped, match="SIGINT: stopped; the runs' checkpoints are kept"):
        worked([run], jobs=1)
    presser.join()
    assert time.monotonic() - started < 30  # it would have slept for a minute


def test_time_left_by_hand(tmp_path):
    done, half, other, unknown = (scripted(tmp_path, name) for name in ("a", "b", "a2", "c"))
    assert time_left([unknown], 1) is None
    worked([done])
    half.run_dir.mkdir()
    (half.run_dir / "metrics.jsonl").write_text(
        json.dumps({"step": 2, "group": "train", "seconds_per_round": 4.0})
        + "\n"
        + json.dumps({"step": 2, "group": "validate", "dice": 0})
        + "\n"
        + '{"step": 3, "gro'
    )
    other = dataclasses.replace(other, name="a")
    # a: 0.01 s a round of four images; b: 4 s. Left: 8 rounds of a, 6 of b, 8 of c at the mean of the two.
    left = [8 * 0.01, 6 * 4.0, 8 * (0.01 + 4.0) / 2]
    runs = [done, half, other, unknown]
    assert time_left(runs, 1) == pytest.approx(sum(left))
    assert time_left(runs, 2) == pytest.approx(24.0)  # the longest by itself
    assert time_left(runs, 1, {half}) == pytest.approx(left[0] + left[2])


def test_progress_says_what_runs_and_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, "_LINE_SECONDS", 0.0)
    runs = [scripted(tmp_path, "a", "rounds(4); time.sleep(1.5); rounds(8)"), scripted(tmp_path, "b", "sys.exit(1)")]
    worked(runs, jobs=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "runs done" in line]
    assert "0 of 2 runs done, about 0:00:00 left (a 0: 4/8)" in lines
    assert re.search(r"1 of 2 runs done, 1 failed, about 0:00:00 left \(nothing runs\)", "\n".join(lines))


# ---- the real thing

TINY = """
--dataset=synthetic
--image_size=64
--num_train=4
--num_validate=4
--num_test=4
--batch_size=4
--discriminator_filters=2
--average_decay=0.9
--max_steps=1000000
--method=dcls
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "tiny_good.flags").write_text(TINY)
    (folder / "tiny_bad.flags").write_text(TINY + "--discriminator_learning_rate=1e30\n")
    halves = TINY.replace("--discriminator_filters=2\n", "").replace("--method=dcls", "--method=vae")
    (folder / "tiny_halves.flags").write_text(halves + "--generator_filters=2\n--latent_units=2\n")
    (folder / "tiny_other.flags").write_text(TINY + "--num_test=6\n")
    return folder


ARGUMENTS = (
    "--mode=benchmark",
    "--run_dir=bench",
    "--benchmark_runs=good:0;bad:4",
    "--benchmark_flagfiles=tiny_{}.flags",
    "--benchmark_images=14",
    "--benchmark_validations=2",
    "--benchmark_jobs=2",
    "--saliency=gradcam",
    "--noflips",
)


def once(draw):
    drawn = []
    return lambda *what: drawn or drawn.extend(draw(*what)) or drawn


@pytest.fixture(scope="module")
def ran(workplace, forked, one_replica, shallow, eager_rounds, graphs_as_traced, no_pictures):
    """The whole program once, with its runs in processes of their own; status, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:  # one run alone has something to draw: it is the same each time
        patch.setattr(figures, "draw_comparison", once(figures.draw_comparison))
        with contextlib.chdir(workplace), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_in_this_process()
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def inside(workplace, monkeypatch):
    monkeypatch.setattr(figures, "draw_comparison", lambda *_: [])  # `ran` drew them
    monkeypatch.chdir(workplace)
    return workplace


def run_in_this_process(*arguments):
    return main(["main", *ARGUMENTS, *arguments])


def test_one_that_fails_is_reported_and_the_other_is_there(ran, workplace):
    status, out, err = ran
    assert status == 1
    assert "good, seed 0: done" in out
    assert "FAILED: bad, seed 4: ended with status 2" in err
    assert "the training has come apart and is stopped" in err
    text = (workplace / "bench" / "tables.md").read_text()
    assert "## What is missing" in text
    assert "bad, seed 4: failed, ended with status 2" in text
    assert "| good (gradcam saliency) | 12 | 3 | 4 |" in text  # 14 images are three rounds of four
    data = json.loads((workplace / "bench" / "tables.json").read_text())
    assert data["table_2"]["good"]["accuracy"]["mean"] is not None
    assert "bad" not in data["table_2"]
    (row,) = [row for row in data["rows"] if row["name"] == "good"]
    report = json.loads((workplace / "bench" / "good_seed0" / "report.json").read_text())
    assert row["budget"]["num_parameters"] == report["num_parameters"]
    assert report["training"]["rounds"] == 3
    assert report["config"]["flips"] is False
    assert (workplace / "bench" / "report.html").stat().st_size > 10_000
    assert (workplace / "bench" / "figures" / "diseased_maps.png").stat().st_size > 10_000
    holders = {(workplace / folder / "lock").read_text() for folder in ("bench", "bench/good_seed0", "bench/bad_seed4")}
    assert len(holders) == 3  # each run was a process of its own, and alone in its folder


def test_validations_are_as_many_as_wanted(ran, workplace):
    lines = map(json.loads, (workplace / "bench" / "good_seed0" / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["group"] == "validate"] == [2, 3]


def test_tables_of_a_half_finished_grid_are_made_without_training(ran, inside, capsys):
    before = {path: path.stat().st_mtime_ns for path in (inside / "bench" / "good_seed0").rglob("*")}
    assert run_in_this_process("--benchmark_runs=good:0,1;halves:0", "--benchmark_tables_only") == 0
    assert before == {path: path.stat().st_mtime_ns for path in (inside / "bench" / "good_seed0").rglob("*")}
    text = (inside / "bench" / "tables.md").read_text()
    assert "good, seed 1: not finished: round 0 of 3" in text
    assert "halves, seed 0: not finished: round 0 of 7" in text  # half of each batch of four: two images a round
    assert not (inside / "bench" / "good_seed1").exists()
    assert "of halves the one class alone that it is trained on" in text


def test_what_is_finished_is_left_alone(ran, inside, capsys):
    before = (inside / "bench" / "good_seed0" / "report.json").stat().st_mtime_ns
    assert run_in_this_process("--benchmark_runs=good:0") == 0
    assert (inside / "bench" / "good_seed0" / "report.json").stat().st_mtime_ns == before
    assert "tables.md" in capsys.readouterr().out


def test_settings_of_other_methods_do_not_make_another_run(ran, inside):
    before = (inside / "bench" / "good_seed0" / "report.json").stat().st_mtime_ns
    rows = ("--benchmark_runs=good:0;halves:0", "--benchmark_tables_only")
    assert run_in_this_process(*rows, "--latent_units=7", "--lambda_kl=2") == 0
    assert (inside / "bench" / "good_seed0" / "report.json").stat().st_mtime_ns == before


def test_a_decayed_run_is_not_made_longer(ran, inside, capsys):
    """Its rates were zero at the end: the same rounds of a longer one would have been others."""
    folder = inside / "decayed" / "good_seed0"
    folder.mkdir(parents=True)
    lines = (inside / "bench" / "good_seed0" / "flags.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("--decay_steps")]
    (folder / "flags.txt").write_text("\n".join([*lines, "--decay_steps=3", ""]))
    arguments = ("--run_dir=decayed", "--benchmark_runs=good:0", "--decay_steps=3", "--benchmark_tables_only")
    assert run_in_this_process(*arguments) == 0
    assert run_in_this_process(*arguments, "--benchmark_images=40") == 2
    assert "decayed/good_seed0 was begun for 3 rounds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--batch_size=8"], ["--run_dir=bench/good_seed0", "--batch_size is 4 there and 8 here"]),
        (["--benchmark_images=40", "--decay_steps=3"], ["--decay_steps is 0 there and 3 here"]),
        (["--benchmark_images=8"], ["bench/good_seed0 has trained 3 rounds", "the budget is 2"]),
        (["--benchmark_images=3"], ["--benchmark_images=3", "less than the 4 of a single round of good"]),
        (["--benchmark_runs=none:0"], ["there is no tiny_none.flags"]),
        (["--benchmark_runs=good:0;other:0"], ["--num_test is 4 for good and 6 for other"]),
        (["--benchmark_flags=--sead=1"], ["sead"]),
        (["--benchmark_runs=good:0", "--latent_units=7"], ["--latent_units: no row's method has", "; vae would."]),
        (["--run_dir=tiny_good.flags"], ["--run_dir=tiny_good.flags"]),
        (["--run_dir=bench/good_seed0"], ["--run_dir=bench/good_seed0 is a run"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(ran, inside, capsys, arguments, parts):
    assert run_in_this_process(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_dry_run_says_what_it_would_take_and_touches_nothing(ran, inside, forked):
    """In a process of its own, as the threads of an operation are settled once in each."""
    arguments = [*ARGUMENTS, "--run_dir=other", "--benchmark_runs=good:0,1", "--threads_per_op=1", "--dry_run"]
    ended = subprocess.run(
        [sys.executable, "-m", "descargan_tf.main", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    out = ended.stdout
    assert re.search(r"good: 2 runs, 2 to do; 3 rounds of 4 images, [\d,]+ classifier parameters, [\d.]+ s a ro", out)
    assert re.search(r"--flagfile=tiny_good.flags --\S+ --\S+ --max_minutes=0 --max_steps=3", out)
    assert "--flips=false" in out
    assert "--threads_per_op=1" in out
    assert re.search(r"about [\d.]+ hours with 2 at a time", out)
    assert not (inside / "other").exists()
