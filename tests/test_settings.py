"""A method's own settings arrive: what --method alone gives, what flagfiles give, what is saved of it."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from command_line import parsed

from descargan_tf import flags
from descargan_tf.config import Config
from descargan_tf.data.dataset import Dataset
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.methods import METHODS, unused_settings
from descargan_tf.run_folder import begun_alone, build_method, check, published_lines, read_saved

ROOT = Path(__file__).resolve().parent.parent
SHARED = {"image_size", "precision"}  # settings that methods have of all of the program's
# Of what a flagfile of configs/ resolves to, as it was when every field of Config still had a default of its own: the
# sha256 of the values below, of those that the method has. A flagfile that is to mean something else has another.
OF_ALL = [
    "batch_size",
    "max_steps",
    "precision",
    "max_minutes",
    "average_decay",
    "clip_norm",
    "warmup_steps",
    "decay_steps",
    "fixed_statistics_from",
    "recoveries",
    "log_every_steps",
    "validate_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "seed",
    "dataset",
    "value_range",
    "num_train",
    "num_validate",
    "num_test",
    "data_seed",
    "flips",
    "mode",
    "method",
    "image_size",
    "saliency",
    "checkpoint",
    "benchmark_runs",
    "benchmark_flagfiles",
    "benchmark_images",
    "benchmark_validations",
    "benchmark_jobs",
    "threads_per_op",
    "backend",
    "init_from",
    "export_largest_batch",
]
OF_METHODS = [
    "batch_norm",
    "generator_filters",
    "discriminator_filters",
    "critic_updates",
    "generator_learning_rate",
    "discriminator_learning_rate",
    "lambda_adv_d",
    "lambda_gp",
    "lambda_cls_d",
    "lambda_adv_g",
    "lambda_cls_g",
    "lambda_id",
    "lambda_rec",
    "distance",
    "rules",
    "classifier_dropout",
    "discriminator_initializer",
    "discriminator_activation",
    "discriminator_max_filters",
    "discriminator_poolings",
    "skip_connections",
    "generator_branches",
    "critic_branches",
    "output",
    "lambda_map",
    "latent_units",
    "dense_blocks",
    "lambda_kl",
]
MEANING = {
    "ablation_change": "53293e88fce1",
    "ablation_no_identity": "da3b1aa1c271",
    "ablation_no_skips": "dbbee0786575",
    "ablation_one_discriminator_branch": "8f406a22f839",
    "ablation_one_generator_branch": "a58b2f197e14",
    "ablation_top_skip": "662ecc12ad23",
    "benchmark_paper": "e3c53fbe8932",
    "benchmark_quick": "4aad9d963ea7",
    "chest_phantom": "ad54eeaf170e",
    "chexpert": "2bd2b679e615",
    "demo": "192f9eeff675",
    "own_data": "93612ba8b5ce",
    "quick_dcls": "cf9e52b2496d",
    "quick_densenet169": "f788c549c62c",
    "quick_descargan": "7ebd94819d58",
    "quick_fpgan": "ed8a57fda6f2",
    "quick_stargan": "dba26423b024",
    "quick_vae": "2d088a00c6cc",
    "quick_vagan": "730e56e10825",
    "quickstart": "24ef3ea2346e",
    "synthetic": "d58966ac5a84",
    "synthetic_64": "7ebd94819d58",
    "synthetic_dcls": "1f98f1215c97",
    "synthetic_densenet169": "634c27c37297",
    "synthetic_descargan": "d58966ac5a84",
    "synthetic_fast": "739084396b1a",
    "synthetic_fpgan": "3086687909f4",
    "synthetic_reference": "273e61d31e3c",
    "synthetic_stargan": "eddf0c460ff3",
    "synthetic_vae": "7b50243e5e54",
    "synthetic_vagan": "5220bec4829e",
}
ROWS = [f"{base}_{name}" for base in ("quick", "synthetic") for name in METHODS if name != "descargan"]


def lines_of(name):
    lines = (ROOT / "configs" / f"{name}.flags").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# ---- defaults


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_own_numbers_arrive_with_its_name_alone(name):
    config = parsed("--dataset=synthetic", "--run_dir=r", f"--method={name}")
    assert METHODS[name].settings(**{key: getattr(config, key) for key in METHODS[name].setting_names}) == (
        METHODS[name].settings()
    )
    for other in unused_settings(name):
        assert getattr(config, other) is None


def test_stargans_are_not_descargans():
    """As they were when the global defaults overwrote them: 50 for 10, 32 filters for 64."""
    config = parsed("--dataset=synthetic", "--run_dir=r", "--method=stargan")
    assert (config.lambda_rec, config.discriminator_filters, config.lambda_cls_d) == (10.0, 64, 1.0)
    assert (config.discriminator_initializer, config.generator_learning_rate) == ("pytorch_uniform", 1e-4)
    network = build_method(dataclasses.replace(config, image_size=64, generator_filters=2, discriminator_filters=2))
    assert network.settings.lambda_rec == 10.0


def test_what_is_given_comes_before_what_is_the_methods_own():
    config = parsed("--dataset=synthetic", "--run_dir=r", "--method=stargan", "--lambda_rec=0", "--critic_updates=1")
    assert (config.lambda_rec, config.critic_updates, config.lambda_gp) == (0.0, 1, 10.0)


def test_flags_of_methods_are_the_settings_of_methods():
    settings = set().union(*(entry.setting_names for entry in METHODS.values()))
    assert settings - SHARED == flags.METHOD_FLAGS
    for name in flags.METHOD_FLAGS:
        assert flags.FIELDS[name].default is None
    for name in settings:
        assert all(
            type(entry.defaults[name]) is flags.FIELDS[name].metadata["flag"].kind
            for entry in METHODS.values()
            if name in entry.setting_names
        )


def test_a_default_of_a_method_is_one_that_its_flag_would_take():
    for name, entry in METHODS.items():
        given = [f"--{key}={value}" for key, value in entry.defaults.items()]
        config = parsed("--dataset=synthetic", "--run_dir=r", f"--method={name}", *given)
        assert all(getattr(config, key) == value for key, value in entry.defaults.items())


def test_a_mode_that_needs_no_method_takes_any_name():
    assert parsed("--mode=serve", "--method=lungs", "--export_dir=e").method == "lungs"
    with pytest.raises(UserError, match="--method=lungs is not known; known are descargan, stargan"):
        parsed("--dataset=synthetic", "--run_dir=r", "--method=lungs")


# ---- what is saved


def test_what_was_resolved_is_saved_and_held_against(tmp_path, monkeypatch):
    arguments = ("--dataset=synthetic", f"--run_dir={tmp_path / 'run'}", "--method=stargan")
    config = check(parsed(*arguments))
    with begun_alone(config, Dataset(config), {"scaling": [0, 1], "dtype": "uint8", "digest": "d"}):
        pass
    saved = tmp_path / "run" / RUN_FLAGS
    written = saved.read_text().splitlines()
    assert "--lambda_rec=10.0" in written
    assert not any(line.startswith(("--lambda_id=", "--latent_units=")) for line in written)
    assert check(parsed(*arguments)) == config
    assert parsed(f"--flagfile={saved}") == config
    with pytest.raises(UserError, match=r"--lambda_rec is 10\.0 there and 50\.0 here"):
        check(parsed(*arguments, "--lambda_rec=50"))
    # The method's own default is another one day: the run keeps its own.
    monkeypatch.setattr(METHODS["stargan"].settings.__dataclass_fields__["lambda_rec"], "default", 12.0)
    assert parsed("--mode=evaluate", f"--run_dir={tmp_path / 'run'}").lambda_rec == 10.0
    with pytest.raises(UserError, match=r"--lambda_rec is 10\.0 there and 12\.0 here"):
        check(parsed(*arguments))


def test_a_published_flagfile_holds_the_settings_of_its_method(tmp_path):
    config = parsed("--dataset=synthetic", "--run_dir=r", "--method=vae")
    (tmp_path / RUN_FLAGS).write_text(published_lines(config))
    found = read_saved(tmp_path / RUN_FLAGS)
    assert (found.method, found.latent_units, found.run_dir) == ("vae", 128, "")
    assert {name for name in METHODS["vae"].setting_names if f"--{name}=" not in published_lines(config)} == set()
    assert "lambda_id" not in published_lines(config)


# ---- the flagfiles of this repository


@pytest.mark.parametrize("name", MEANING)
def test_a_flagfile_means_what_it_always_has(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = dataclasses.asdict(parsed(f"--flagfile=configs/{name}.flags", "--data_dir=d"))
    values = {key: config[key] for key in (*OF_ALL, *OF_METHODS) if config[key] is not None}
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    assert found == MEANING[name], values


def test_every_flagfile_that_can_be_run_is_among_them():
    assert {path.stem for path in (ROOT / "configs").glob("*.flags")} - {"quick_base", "synthetic_base"} == set(MEANING)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_undoes_no_recipe(name, monkeypatch):
    """Nothing of a method in what they share, and nothing in a row that its method would have without."""
    monkeypatch.chdir(ROOT)
    shared, _, method = name.partition("_")
    assert lines_of(name)[:2] == [f"--flagfile={shared}_base.flags", f"--method={method}"]
    base = {line[2:].partition("=")[0] for line in lines_of(f"{shared}_base")}
    assert not base & (flags.METHOD_FLAGS | {"method", "flagfile"})
    own = {line[2:].partition("=")[0] for line in lines_of(name)[2:]}
    assert own & base <= {"batch_size"}
    without = parsed(f"--flagfile=configs/{shared}_base.flags", f"--method={method}")
    row = parsed(f"--flagfile=configs/{name}.flags")
    general = own - flags.METHOD_FLAGS
    assert all(getattr(row, key) != getattr(without, key) for key in general)


def test_the_fields_of_config_are_those_of_flags():
    assert set(flags.FIELDS) == {field.name for field in dataclasses.fields(Config)}
