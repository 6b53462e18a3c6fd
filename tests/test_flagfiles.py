"""Flagfiles as people write them: from any folder, in any editor; paths with ~; flags that are no longer there."""

from pathlib import Path

import pytest
from command_line import SYNTHETIC, parsed, refusal

from descargan_tf import flags
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.run_folder import resolve

ROOT = Path(__file__).resolve().parent.parent


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return f"--flagfile={path}"


# ---- one that names another


def test_a_flagfile_finds_those_that_it_names_beside_itself_from_any_folder(tmp_path, monkeypatch):
    write(tmp_path / "recipes/base/small.flags", "--dataset=synthetic", "--seed=5")
    write(tmp_path / "recipes/child.flags", "--flagfile=base/small.flags", "--num_test=3")
    for folder, name in ((tmp_path, "recipes/child.flags"), (ROOT, tmp_path / "recipes/child.flags")):
        monkeypatch.chdir(folder)
        config = parsed(f"--flagfile={name}")
        assert (config.seed, config.num_test, config.run_dir) == (5, 3, "runs/child")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.flags")), ids=lambda path: path.name)
def test_every_config_file_can_be_used_from_elsewhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path.stem == "demo":
        assert "there are no weights in pretrained/synthetic256" in refusal(f"--flagfile={path}")
        return
    config = parsed(f"--flagfile={path}", "--data_dir=d")
    assert config.run_dir == f"runs/{path.stem}"
    if config.mode == "benchmark":
        assert all(Path(config.benchmark_flagfiles.replace("{}", row)).is_file() for row in config.runs)


def test_beside_itself_wins_over_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.flags", "--dataset=synthetic", "--seed=1")
    child = write(tmp_path / "recipes/child.flags", "--flagfile=base.flags")
    assert parsed(child).seed == 1
    write(tmp_path / "recipes/base.flags", "--dataset=synthetic", "--seed=2")
    assert parsed(child).seed == 2


def test_one_that_is_nowhere_is_named_with_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(write(tmp_path / "recipes/child.flags", "--flagfile=base.flags"))
    for place in (tmp_path / "recipes/child.flags", tmp_path / "recipes/base.flags", tmp_path / "base.flags"):
        assert str(place) in message


def test_one_behind_a_link_to_nowhere_says_where_it_leads(tmp_path):
    (tmp_path / "a.flags").symlink_to("gone.flags")
    assert refusal(f"--flagfile={tmp_path / 'a.flags'}") == (
        f"--flagfile={tmp_path / 'a.flags'} cannot be read: No such file or directory: it is a link to gone.flags."
    )


def test_flagfiles_that_name_each_other_are_refused(tmp_path):
    write(tmp_path / "a.flags", "--flagfile=b.flags")
    message = refusal(write(tmp_path / "b.flags", "--flagfile=a.flags"))
    assert "names itself" in message
    assert "a.flags" in message


@pytest.mark.parametrize("arguments", [["--flagfile="], ["--flagfile"]])
def test_a_flagfile_without_a_name_is_refused(arguments):
    assert refusal(*SYNTHETIC, *arguments) == "--flagfile names no file: --flagfile=<file>."


# ---- as editors and shells leave them


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("a byte order mark", b"\xef\xbb\xbf--dataset=synthetic\n--seed=5\n"),
        ("CRLF", b"--dataset=synthetic\r\n--seed=5\r\n"),
        ("both, and no last line break", b"\xef\xbb\xbf# of a user\r\n\r\n--dataset=synthetic\r\n--seed=5"),
        ("line breaks of an old Macintosh", b"--dataset=synthetic\r--seed=5\r"),
        ("indented comments and blanks", b"  # of a user\n   --dataset=synthetic  \n\t// more\n --seed=5 \n"),
        ("a comment in Latin-1", b"# f\xfcr mich\n--dataset=synthetic\n--seed=5\n"),
    ],
)
def test_a_flagfile_is_read_whatever_wrote_it(tmp_path, what, content):
    file = tmp_path / "notes.flags"
    file.write_bytes(content)
    assert (parsed(f"--flagfile={file}").seed, parsed(f"--flagfile={file}").dataset) == (5, "synthetic"), what


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    file = tmp_path / "notes.flags"
    file.write_bytes("--dataset=synthetic\n".encode(encoding))
    message = refusal(f"--flagfile={file}")
    assert str(file) in message
    assert "UTF-16" in message
    assert "save it as UTF-8" in message


def test_bytes_of_a_path_that_are_no_utf_8_arrive_and_are_saved_as_they_are(tmp_path):
    file = tmp_path / "notes.flags"
    file.write_bytes(b"--dataset=synthetic\n--data_dir=/data/M\xfcller\n")
    config = parsed(f"--flagfile={file}")
    assert config.data_dir.encode(errors="surrogateescape") == b"/data/M\xfcller"
    saved = tmp_path / RUN_FLAGS
    saved.write_bytes(flags.lines(config).encode(errors="surrogateescape"))
    assert flags.read_file(saved)["data_dir"] == config.data_dir


# ---- paths


PATHS = [name for name, field in flags.FIELDS.items() if field.metadata["flag"].is_path]


def test_every_flag_that_is_called_after_a_path_is_known_as_one():
    named = {name for name in flags.FIELDS if name.endswith(("_dir", "_file", "_flagfiles")) or name == "input"}
    assert named <= set(PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(parsed("--mode=generate", f"--{name}=~/d{{}}"), name) == f"{tmp_path}/d{{}}"
    assert getattr(parsed("--mode=generate", f"--{name}=a~/~"), name) == "a~/~"
    file = write(tmp_path / "of a user.flags", "--mode=generate", f"--{name}=~/d{{}}")
    assert getattr(parsed(file), name) == f"{tmp_path}/d{{}}"


def test_a_tilde_in_flagfile_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "base.flags", "--dataset=synthetic", "--seed=5")
    write(tmp_path / "child.flags", "--flagfile=~/base.flags")
    assert parsed("--flagfile=~/child.flags").seed == 5
    assert parsed("--flagfile", "~/child.flags").run_dir == "runs/child"


def test_a_path_that_no_flagfile_can_hold_is_refused():
    assert "--data_dir='a\\nb': a path with a line break" in refusal(*SYNTHETIC, "--data_dir=a\nb")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_path_in_a_flagfile_are_no_part_of_it(tmp_path, quote):
    """A shell takes them away, a flagfile does not: the folder would have them in its name."""
    file = write(tmp_path / "mine.flags", *SYNTHETIC, f"--data_dir={quote}/my data{quote}")
    assert refusal(file) == (
        f"--data_dir={quote}/my data{quote} in {tmp_path / 'mine.flags'}: a flagfile takes no quotes, leave them out."
    )
    assert parsed(write(tmp_path / "mine.flags", *SYNTHETIC, "--data_dir=/my data's")).data_dir == "/my data's"


@pytest.mark.parametrize("dash", ["\u2013", "\u2014", "\u2212\u2212"])
def test_a_dash_of_a_word_processor_is_told(dash):
    assert refusal(*SYNTHETIC, f"{dash}seed=3") == (
        f"unexpected argument '{dash}seed=3': flags are written --name=value, and this dash is no hyphen."
    )


@pytest.mark.parametrize(("typed", "meant"), [("--data-dir=d", "data_dir"), ("--batchsize=4", "batch_size")])
def test_a_flag_that_is_nearly_right_is_suggested(typed, meant):
    assert meant in refusal(*SYNTHETIC, typed)


# ---- flags of earlier versions

IDLE = """--critic_blur=0.0
--critic_blur_steps=0
--reals_per_fake=1
--generator_warmup_steps=0
--generator_initial_learning_rate=0.0
--discriminator_warmup_steps=0
--discriminator_initial_learning_rate=0.0
--num_workers=3
--adversarial_delay_steps=0
--fake_classes=opposite
--penalty_score=mean
--critic_padding=0
--noise=0.0
""".splitlines()
AT_WORK = [
    "--critic_blur=2",
    "--critic_blur_steps=300",
    "--reals_per_fake=3",
    "--generator_warmup_steps=20",
    "--generator_initial_learning_rate=1e-5",
    "--discriminator_warmup_steps=20",
    "--discriminator_initial_learning_rate=1e-5",
    "--adversarial_delay_steps=100",
    "--fake_classes=both",
    "--penalty_score=sum",
    "--critic_padding=1",
    "--noise=0.05",
]


def old_run(folder, *lines):
    config = parsed("--dataset=synthetic", f"--run_dir={folder}")
    write(folder / RUN_FLAGS, *flags.lines(config).splitlines(), *lines)
    return config


def test_flags_that_are_gone_and_did_nothing_are_passed_over_in_a_run_folder(tmp_path):
    config = old_run(tmp_path / "run", *IDLE)
    assert parsed("--mode=evaluate", f"--run_dir={tmp_path / 'run'}").seed == config.seed
    assert parsed(f"--flagfile={tmp_path / 'run' / RUN_FLAGS}") == config


@pytest.mark.parametrize("mode", ["evaluate", "predict", "export", "publish"])
def test_a_run_of_flags_that_are_gone_says_which_since_when_and_what_to_do(tmp_path, mode):
    at_work = [*AT_WORK, "--output=additive"]
    old_run(tmp_path / "run", *at_work, "--num_workers=3")
    message = refusal(f"--mode={mode}", f"--run_dir={tmp_path / 'run'}", "--input=x.png")
    assert message.startswith(f"{tmp_path / 'run' / RUN_FLAGS} names flags of earlier versions, the last of ")
    for text in at_work:
        assert text in message
    assert "num_workers" not in message
    for part in ("git checkout", "checkpoint.json", "train anew"):
        assert part in message


@pytest.mark.parametrize("text", [*AT_WORK, "--num_workers=3"])
def test_a_flag_that_is_gone_is_told_so_on_the_command_line(text):
    message = refusal(*SYNTHETIC, text)
    assert message.startswith(f"{text}: of earlier versions, the last of which is version 0.1.0 (commit 32dd519)")
    assert "Leave them out" in message


def test_a_flag_that_is_gone_is_told_so_in_a_flagfile_of_a_user(tmp_path):
    file = write(tmp_path / "mine.flags", *SYNTHETIC, "--noise", "--noise=0.05")
    assert refusal(file).startswith(f"{file} names flags of earlier versions")


# ---- for which method


def test_a_flag_of_another_method_is_refused_with_those_that_have_it():
    assert refusal(*SYNTHETIC, "--method=stargan", "--lambda_id=3") == (
        "--lambda_id: --method=stargan has no such setting; descargan, fpgan have it."
    )
    assert (
        refusal(*SYNTHETIC, "--latent_units=3") == "--latent_units: --method=descargan has no such setting; vae has it."
    )


def test_it_is_refused_in_the_flagfile_that_chooses_the_method_too(tmp_path):
    write(tmp_path / "shared.flags", "--dataset=synthetic", "--lambda_id=3", "--latent_units=7")
    passed_over = write(tmp_path / "mine.flags", "--flagfile=shared.flags", "--method=vae")
    config = parsed(passed_over)
    assert (config.latent_units, config.lambda_id) == (7, None)
    assert "--lambda_id" not in flags.lines(config)
    file = write(tmp_path / "mine.flags", "--flagfile=shared.flags", "--method=vae", "--lambda_id=4")
    assert refusal(file) == "--lambda_id: --method=vae has no such setting; descargan, fpgan have it."


def test_a_flagfile_is_shared_where_the_method_is_chosen_elsewhere(tmp_path):
    file = write(tmp_path / "mine.flags", "--dataset=synthetic", "--method=descargan", "--lambda_adv_d=3")
    assert parsed(file).lambda_adv_d == 3
    assert parsed(file, "--method=stargan").lambda_adv_d is None


@pytest.mark.parametrize("arguments", [["--lambda_id", "3"], ["-lambda_id=3"], ["--nolambda_id"]])
def test_however_it_is_written(arguments):
    assert "lambda_id" in refusal(*SYNTHETIC, "--method=stargan", *arguments)


def test_a_run_folder_of_an_earlier_version_has_the_flags_of_all_methods(tmp_path):
    config = parsed("--dataset=synthetic", "--method=stargan", f"--run_dir={tmp_path / 'run'}")
    write(tmp_path / "run" / RUN_FLAGS, *flags.lines(config).splitlines(), "--lambda_id=50.0", "--latent_units=128")
    assert parsed(f"--flagfile={tmp_path / 'run' / RUN_FLAGS}") == config
    assert parsed("--mode=evaluate", f"--run_dir={tmp_path / 'run'}").lambda_id is None
    assert refusal("--mode=evaluate", f"--run_dir={tmp_path / 'run'}", "--lambda_id=50.0").startswith("--lambda_id: ")


def test_what_is_wrong_with_flags_is_said_before_a_method_is_looked_at():
    with pytest.raises(UserError, match="--run_dir is missing"):
        flags.parse(["main", "--dataset=synthetic", "--method=none"])
    given = flags.parse(["main", *SYNTHETIC, "--method=none"])
    with pytest.raises(UserError, match="--method=none is not known; known are descargan"):
        resolve(given)
