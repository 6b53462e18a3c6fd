"""Flags to Config: defaults, flagfiles, refusals; TensorFlow is not needed for any of it."""

import dataclasses
from pathlib import Path

import pytest
from absl import flags
from command_line import SYNTHETIC, parsed, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from descargan_tf import flags as flags_module
from descargan_tf.config import Config
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.methods import METHODS, unused_settings
from descargan_tf.run_folder import check_run, with_precision

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def write_flags(path, *lines):
    path.write_text("# what this is\n\n" + "".join(line + "\n" for line in lines))
    return f"--flagfile={path}"


def make_run(folder, *arguments):
    """A run folder as training leaves it, without its checkpoints."""
    folder.mkdir(parents=True)
    config = parsed("--dataset=synthetic", f"--run_dir={folder}", *arguments)
    (folder / RUN_FLAGS).write_text(flags_module.lines(config))
    return config


# ---- what comes of flags


def test_defaults_are_those_of_the_fields_and_the_papers():
    config = parsed(*SYNTHETIC)
    own = METHODS["descargan"].defaults | dict.fromkeys(unused_settings("descargan"))
    assert config == Config(dataset="synthetic", run_dir="runs/a", data_dir="data/synthetic_256", **own)
    assert (config.mode, config.method, config.image_size, config.batch_size) == ("train", "descargan", 256, 10)
    assert (config.critic_updates, config.max_steps, config.generator_learning_rate) == (5, 40000, 1e-4)
    assert (config.lambda_adv_d, config.lambda_gp, config.lambda_cls_d) == (20, 10, 5)
    assert (config.lambda_adv_g, config.lambda_cls_g, config.lambda_id, config.lambda_rec) == (1, 1, 50, 50)
    assert (config.flips, config.dry_run) == (True, False)


def test_values_have_the_type_of_their_default():
    config = parsed(*SYNTHETIC, "--seed=7", "--lambda_id=3", "--noflips", "--dry_run", "--distance=mse")
    values = (config.seed, config.lambda_id, config.flips, config.dry_run, config.distance)
    assert values == (7, 3.0, False, True, "mse")
    for name, value in dataclasses.asdict(config).items():
        kind = FIELDS[name].metadata["flag"].kind
        unset = {"enable_batching", *unused_settings("descargan")}
        assert type(value) is kind or (value is None and name in unset), name


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed(*SYNTHETIC).seed = 1


@pytest.mark.parametrize("size", [64, 128])
def test_data_dir_of_synthetic_data_is_named_after_the_size(size):
    assert parsed(*SYNTHETIC, f"--image_size={size}").data_dir == f"data/synthetic_{size}"
    assert parsed(*SYNTHETIC, f"--image_size={size}", "--data_dir=d").data_dir == "d"


def test_flagfile_gives_values_and_names_the_run(tmp_path):
    file = write_flags(tmp_path / "small.flags", "--dataset=synthetic", "--seed=5", "--noflips")
    config = parsed(file)
    assert (config.seed, config.flips, config.run_dir) == (5, False, "runs/small")
    assert parsed(file, "--run_dir=elsewhere").run_dir == "elsewhere"


def test_what_follows_the_flagfile_wins(tmp_path):
    file = write_flags(tmp_path / "small.flags", "--dataset=synthetic", "--seed=5", "--lambda_id=0.05")
    config = parsed(file, "--seed=6")
    assert (config.seed, config.lambda_id) == (6, 0.05)


def test_nested_flagfile_is_overridden_by_the_lines_after_it_and_names_no_run(tmp_path):
    base = write_flags(tmp_path / "base.flags", "--dataset=synthetic", "--seed=5", "--lambda_id=0.05")
    config = parsed(write_flags(tmp_path / "child.flags", base, "--seed=6"))
    assert (config.seed, config.lambda_id, config.run_dir) == (6, 0.05, "runs/child")


def test_two_parsings_share_nothing():
    assert parsed(*SYNTHETIC, "--seed=5").seed == 5
    assert parsed(*SYNTHETIC).seed == 0


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_lists_every_flag_and_ends_well(capsys, flag):
    with pytest.raises(SystemExit) as caught:
        parsed("--mode=train", flag)
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name, field in FIELDS.items():
        assert f"--{'[no]' if field.metadata['flag'].kind is bool else ''}{name}:" in shown


def test_no_flag_lacks_a_help_text():
    values = flags.FlagValues()
    flags_module.declare(values)
    for name in FIELDS:
        assert values[name].help.strip(), name


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.flags")), ids=lambda path: path.name)
def test_every_config_file_parses(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # a flagfile names its base from there
    name = path.relative_to(ROOT)
    config = parsed(f"--flagfile={name}", "--data_dir=data/of_a_user")
    assert config.run_dir == f"runs/{path.stem}"
    modes = {"benchmark": "benchmark", "demo": "evaluate"}
    assert config.mode == modes.get(path.stem.partition("_")[0], "train")


# ---- what is refused


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--sead=3", ["sead"]),
        ("--mode=fly", ["--mode", "fly", "train"]),
        ("--dataset=mnist", ["--dataset", "mnist", "folders"]),
        ("--distance=l3", ["--distance", "l3", "mse"]),
        ("--precision=float16", ["--precision", "float16", "bfloat16"]),
        ("--rules=none", ["--rules", "none", "program"]),
        ("--output=additive", ["--output", "additive", "change"]),
        ("--batch_norm=batch", ["--batch_norm", "batch", "per_image"]),
        ("--seed=-1", ["--seed", "-1"]),
        ("--seed=2147483648", ["--seed", "2147483648"]),
        ("--seed=one", ["--seed", "one"]),
        ("--seed=1.5", ["--seed", "1.5"]),
        ("--seed=", ["--seed"]),
        ("--seed", ["seed"]),
        ("--max_steps=0", ["--max_steps", "0"]),
        ("--image_size=0", ["--image_size", "0"]),
        ("--image_size=100", ["--image_size", "100", "64"]),
        ("--image_size=32", ["--image_size", "32"]),
        ("--batch_size=5", ["--batch_size", "5", "2"]),
        ("--batch_size=0", ["--batch_size", "0"]),
        ("--average_decay=1", ["--average_decay", "1"]),
        ("--classifier_dropout=0.95", ["--classifier_dropout", "0.95"]),
        ("--fixed_statistics_from=0", ["--fixed_statistics_from", "0"]),
        ("--recoveries=-1", ["--recoveries", "-1"]),
        ("--lambda_id=-1", ["--lambda_id", "-1"]),
        ("--lambda_id=much", ["--lambda_id", "much"]),
        ("--lambda_id=nan", ["--lambda_id", "nan"]),
        ("--generator_learning_rate=inf", ["--generator_learning_rate", "inf"]),
        ("--flips=perhaps", ["--flips", "perhaps"]),
        ("--keep_checkpoints=0", ["--keep_checkpoints", "0"]),
        ("train", ["'train'", "--name=value"]),
    ],
)
def test_a_value_that_cannot_be_dies_with_its_name_and_value(argument, parts):
    message = refusal(*SYNTHETIC, argument)
    for part in parts:
        assert part in message


def test_what_is_deterministic_has_no_clock_and_one_backend():
    assert "add --max_minutes=0" in refusal(*SYNTHETIC, "--run_dir=r", "--deterministic", "--max_minutes=5")
    assert "leave one out" in refusal(*SYNTHETIC, "--run_dir=r", "--deterministic", "--jit_compile")
    assert "leave out --backend=jax" in refusal(*SYNTHETIC, "--run_dir=r", "--deterministic", "--backend=jax")
    parsed(*SYNTHETIC, "--run_dir=r", "--deterministic", "--max_minutes=0")


def test_bad_values_of_a_flagfile_are_refused_too(tmp_path):
    assert "wide" in refusal(write_flags(tmp_path / "a.flags", "--dataset=synthetic", "--generator_filters=wide"))


def test_a_flagfile_that_cannot_be_read_is_named(tmp_path):
    assert str(tmp_path / "none.flags") in refusal(f"--flagfile={tmp_path / 'none.flags'}")
    assert str(tmp_path) in refusal(f"--flagfile={tmp_path}")
    nested = write_flags(tmp_path / "child.flags", f"--flagfile={tmp_path / 'base.flags'}")
    assert str(tmp_path / "base.flags") in refusal(nested)


def test_a_flagfile_that_is_no_text_is_refused(tmp_path):
    picture = tmp_path / "x.flags"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    assert "flagfile" in refusal(f"--flagfile={picture}")


def test_a_flagfiles_schedule_does_not_hinder_a_short_try_and_stays_in_the_run(tmp_path, monkeypatch):
    """It is shortened where it is used (`Schedule`), so that the same run may be made longer again."""
    monkeypatch.chdir(tmp_path)
    arguments = (f"--flagfile={ROOT}/configs/quickstart.flags", f"--run_dir={tmp_path / 'run'}")
    config = parsed(*arguments, "--max_steps=100")
    assert (config.max_steps, config.warmup_steps, config.decay_steps) == (100, 200, 1250)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_FLAGS).write_text(flags_module.lines(config))
    for steps in ("--max_steps=100", "--max_steps=4000"):
        check_run(parsed(*arguments, steps), tmp_path / "run" / RUN_FLAGS)


@pytest.mark.parametrize("mode", ["train", "check_data"])
def test_own_images_need_a_data_dir(mode):
    assert refusal(f"--mode={mode}", "--run_dir=runs/a").startswith("--data_dir is missing")


def test_training_needs_a_run_dir_or_a_flagfile_to_name_it_after():
    assert refusal("--dataset=synthetic").startswith("--run_dir is missing")


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_evaluate_and_predict_need_a_run(tmp_path, mode):
    assert f"--mode={mode} needs --run_dir" in refusal(f"--mode={mode}", "--dataset=synthetic", "--input=x.png")
    message = refusal(f"--mode={mode}", f"--run_dir={tmp_path / 'none'}", "--input=x.png")
    assert message.startswith(f"--run_dir={tmp_path / 'none'} is not a run")
    assert not (tmp_path / "none").exists()


def test_predict_needs_input(tmp_path):
    make_run(tmp_path / "run")
    assert "needs --input=" in refusal("--mode=predict", f"--run_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("mode", ["generate", "check_data"])
def test_data_modes_need_no_run(mode):
    assert parsed(f"--mode={mode}", "--dataset=synthetic").run_dir == ""


# ---- a run folder and its flags


def test_flag_lines_rerun_the_same_configuration(tmp_path):
    config = parsed(
        "--dataset=synthetic",
        f"--run_dir={tmp_path / 'a run'}",
        "--data_dir=some where/data #1",
        "--noflips",
        "--lambda_id=0.1",
        "--generator_learning_rate=1e-5",
        "--seed=2147483647",
        "--rules=program",
        "--checkpoint=latest",
    )
    (tmp_path / RUN_FLAGS).write_text(flags_module.lines(config))
    assert parsed(f"--flagfile={tmp_path / RUN_FLAGS}") == config
    assert "--mode" not in flags_module.lines(config)  # so that --mode=evaluate can take the file up
    assert "--host" not in flags_module.lines(config)  # a server's flags are of no run


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1e6), st.floats(0, 0.9), st.booleans(), st.integers(0, 2**31 - 1))
def test_flag_lines_keep_every_digit(tmp_path_factory, weight, dropout, flips, seed):
    config = dataclasses.replace(
        parsed("--dataset=synthetic", "--data_dir=d", "--run_dir=r"),
        lambda_rec=weight,
        classifier_dropout=dropout,
        flips=flips,
        seed=seed,
    )
    file = tmp_path_factory.getbasetemp() / "digits.flags"
    file.write_text(flags_module.lines(config))
    assert parsed(f"--flagfile={file}") == config


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_evaluate_and_predict_take_the_flags_of_the_run_folder(tmp_path, mode):
    trained = make_run(tmp_path / "run", "--generator_filters=4", "--data_dir=there", "--noflips", "--image_size=64")
    config = parsed(f"--mode={mode}", f"--run_dir={tmp_path / 'run'}", "--checkpoint=latest", "--input=x.png")
    assert config == dataclasses.replace(trained, mode=mode, checkpoint="latest", input="x.png")


def test_a_run_folder_that_was_moved_is_used_where_it_is(tmp_path):
    make_run(tmp_path / "old", "--generator_filters=4")
    (tmp_path / "old").rename(tmp_path / "new")
    config = parsed("--mode=evaluate", f"--run_dir={tmp_path / 'new'}")
    assert (config.run_dir, config.generator_filters) == (str(tmp_path / "new"), 4)


def test_the_flagfile_of_the_training_names_the_run_to_evaluate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_flags(Path("small.flags"), "--dataset=synthetic", "--seed=5")
    trained = make_run(Path("runs/small"), "--seed=5")
    assert parsed("--mode=evaluate", file) == dataclasses.replace(trained, mode="evaluate")


def test_evaluating_with_other_networks_than_the_runs_is_refused(tmp_path):
    make_run(tmp_path / "run", "--generator_filters=4")
    message = refusal("--mode=evaluate", f"--run_dir={tmp_path / 'run'}", "--generator_filters=8")
    assert "--generator_filters is 4 there and 8 here" in message


@pytest.mark.parametrize("mode", ["evaluate", "predict", "export", "serve"])
def test_auto_precision_is_that_of_the_run(tmp_path, mode):
    """As where a run is evaluated with the flagfile that it was trained with."""
    make_run(tmp_path / "run", "--precision=bfloat16")
    arguments = ["--input=scans"] if mode == "predict" else []
    config = parsed(f"--mode={mode}", f"--run_dir={tmp_path / 'run'}", "--precision=auto", *arguments)
    assert config.precision == "bfloat16"
    message = refusal(f"--mode={mode}", f"--run_dir={tmp_path / 'run'}", "--precision=float32", *arguments)
    assert "--precision is bfloat16 there and float32 here" in message


def test_check_run_names_every_setting_with_both_values(tmp_path):
    config = make_run(tmp_path / "run")
    saved = tmp_path / "run" / RUN_FLAGS
    check_run(config, saved)
    other = dataclasses.replace(config, seed=3, flips=False, lambda_id=0.5, distance="mse")
    with pytest.raises(UserError) as caught:
        check_run(other, saved)
    message = str(caught.value)
    assert f"--run_dir={tmp_path / 'run'} was made with other settings" in message
    for part in (
        "--seed is 0 there and 3 here",
        "--flips is true there and false here",
        "--lambda_id is 50.0 there and 0.5 here",
        "--distance is l2 there and mse here",
    ):
        assert part in message
    assert message.count(" there and ") == 4


def test_check_run_lets_pass_what_does_not_make_another_run(tmp_path):
    config = make_run(tmp_path / "run")
    same_run = {
        "mode": "evaluate",
        "max_steps": 80000,
        "keep_checkpoints": 9,
        "log_every_steps": 1,
        "data_dir": "moved",
        "checkpoint": "3",
        "batch_norm": "per_image",
        "dry_run": True,
    }
    check_run(dataclasses.replace(config, **same_run), tmp_path / "run" / RUN_FLAGS)


def test_check_run_leaves_out_what_the_method_does_not_use_and_what_it_is_told_to(tmp_path):
    config = make_run(tmp_path / "run")
    saved = tmp_path / "run" / RUN_FLAGS
    saved.write_text(saved.read_text() + "--latent_units=7\n")  # as earlier versions did
    check_run(config, saved)
    with pytest.raises(UserError, match="--num_test is 200 there and 9 here"):
        check_run(dataclasses.replace(config, num_test=9), saved)
    check_run(dataclasses.replace(config, num_test=9), saved, let_pass={"num_test"})


@pytest.mark.parametrize("name", ["image_size", "batch_size", "method", "dataset", "num_train", "data_seed", "rules"])
def test_check_run_holds_to_what_makes_a_run(tmp_path, name):
    config = make_run(tmp_path / "run", "--data_dir=d")
    other = {"method": "stargan", "dataset": "folders", "rules": "program"}.get(name, 2 * (getattr(config, name) or 1))
    with pytest.raises(UserError, match=f"--{name} is {getattr(config, name)} there and {other} here"):
        check_run(dataclasses.replace(config, **{name: other}), tmp_path / "run" / RUN_FLAGS)


def test_a_run_of_an_earlier_version_without_a_new_flag_is_not_refused(tmp_path):
    config = make_run(tmp_path / "run")
    saved = tmp_path / "run" / RUN_FLAGS
    saved.write_text("".join(line for line in saved.read_text().splitlines(True) if "--rules" not in line))
    check_run(dataclasses.replace(config, rules="program"), saved)


@pytest.mark.parametrize("line", ["--noflips", "# a note", "--flips"])
def test_a_flags_file_that_was_edited_by_hand_can_be_read(tmp_path, line):
    make_run(tmp_path / "run")
    saved = tmp_path / "run" / RUN_FLAGS
    saved.write_text("".join(x for x in saved.read_text().splitlines(True) if "--flips" not in x) + line + "\n")
    config = parsed("--mode=evaluate", f"--run_dir={tmp_path / 'run'}")
    assert config.flips is (line != "--noflips")


def test_precision_auto_is_what_the_hardware_is_fast_in_or_what_the_run_began_with(tmp_path):
    saved = tmp_path / "flags.txt"
    definite = Config(mode="generate")
    config = dataclasses.replace(definite, precision="auto")
    assert with_precision(config, saved, lambda: "bfloat16").precision == "bfloat16"
    saved.write_text("--precision=float32\n")
    assert with_precision(config, saved, lambda: "bfloat16").precision == "float32"
    assert with_precision(definite, saved, lambda: "bfloat16").precision == "float32"
