"""The wheel, installed where nothing of the checkout is in sight, and files of the user's that bear a name of ours."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import hostile_surroundings
import program_starts
import pytest

import descargan_tf

ROOT = Path(__file__).resolve().parent.parent
BUILT_OF = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", *(p.name for p in ROOT.glob("requirements*.txt")))
EXPORT = Path("descargan_tf") / "export"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new environment with the wheel in it, which pip makes on the way; what it requires is lent by this one."""
    folder = tmp_path_factory.mktemp("environment")
    source = folder / "source"  # a build leaves folders beside what it reads
    source.mkdir()
    for name in ("descargan_tf", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_OF:
        shutil.copy(ROOT / name, source)
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site_of(folder) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", source)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return folder / "bin"


def site_of(folder):
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))


@pytest.fixture(scope="module")
def wheel(environment):
    """What is known of it where it is installed."""
    (found,) = metadata.distributions(path=[str(site_of(environment.parent))])
    return found


@pytest.fixture
def elsewhere(tmp_path):
    """A folder to work in, of somebody who has an export.py too, and variables without a way to the checkout."""
    (tmp_path / "export.py").write_text("raise SystemExit('this is not descargan')\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {"cwd": tmp_path, "env": variables}


def test_a_wheel_holds_every_file_of_both_folders_and_no_other_package(wheel):
    wanted = {
        *(path.relative_to(ROOT) for path in (ROOT / "descargan_tf").rglob("*") if path.is_file()),
        *(EXPORT / path.relative_to(ROOT / "export") for path in (ROOT / "export").rglob("*") if path.is_file()),
    }
    installed = {Path(path) for path in wheel.files if "__pycache__" not in path.parts}
    held = {path for path in installed if ".dist-info" not in path.parts[0] and path.parts[0] != ".."}
    assert held == {path for path in wanted if "__pycache__" not in path.parts}
    assert {EXPORT / "embedded" / "viewer.html", EXPORT / "serving" / "models.config"} <= held
    assert {path.parts[0] for path in held} == {"descargan_tf"}
    assert [path.name for path in installed if path.parts[0] == ".."] == ["descargan"]
    # And not the one that points at the folder of a checkout.
    assert wheel.locate_file(EXPORT / "__init__.py").read_bytes() == (ROOT / "export" / "__init__.py").read_bytes()


def test_a_wheel_says_what_it_needs(wheel):
    assert wheel.version == descargan_tf.__version__
    assert set(wheel.metadata.get_all("Provides-Extra")) == {"beam", "formats", "jax", "medical", "dev"}
    needed = " ".join(wheel.requires)
    for name in ("tensorflow==2.21.0", "apache-beam", "onnxruntime", "jax", "pydicom", "nibabel", "pytest"):
        assert name in needed
    assert "-r " not in needed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wheel.metadata["Requires-Python"].split(",")[-1] in project["requires-python"]


def test_the_installed_command_has_help(environment, elsewhere):
    for command in ([environment / "descargan"], [environment / "python", "-m", "descargan_tf.main"]):
        done = run(*command, "--help", **elsewhere)
        assert done.returncode == 0, done.stderr
        assert "--flagfile" in done.stdout
        assert "--method:" in done.stdout
    where = run(environment / "python", "-c", "import descargan_tf; print(descargan_tf.__file__)", **elsewhere)
    assert where.stdout.startswith(str(environment.parent))


SERVE = ("--mode=serve", "--export_dir=none", "--rest_api_port=0")
REFUSED = "--rest_api_port=0 and --port=0 leave nothing to answer at"
# The program, and what it has loaded then.
SHOW = """
import sys
from descargan_tf.main import main
status = main()
import json, keras, os, tensorflow as tf
settings = keras.config
print(json.dumps([settings.backend(), settings.image_data_format(), settings.floatx(), settings.epsilon(),
                  tf.executing_eagerly(), os.environ.get("TF_XLA_FLAGS"), "IPython" in sys.modules]))
sys.exit(status)
"""


def test_an_export_of_the_users_is_not_imported(elsewhere):
    """To serve a folder without versions, all of the server is imported before it is refused."""
    elsewhere["env"]["PYTHONPATH"] = str(ROOT)
    process = program_starts.start(elsewhere["cwd"], *SERVE, env=elsewhere["env"])
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert REFUSED in stderr


def test_nor_is_it_where_the_program_is_installed_which_computes_as_it_does_anywhere(environment, elsewhere):
    """In surroundings that are set for other things; and Keras loads nothing for parts that are not used."""
    command = environment / "python", "-c", SHOW, *SERVE
    done = hostile_surroundings.run(elsewhere["cwd"], hostile_surroundings.OTHER_KERAS, *command, pythonpath="")
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout) == ["tensorflow", "channels_last", "float32", 1e-07, True, None, False]
    first, last = done.stderr.splitlines()  # and not a word of cuInit
    assert first.startswith("not taken from the environment, as it would change what is computed: TF2_BEHAVIOR=0 ")
    assert "MPLBACKEND" not in first
    assert REFUSED in last


def test_nor_is_a_folder_of_that_name(elsewhere):
    """By the client, which imports what it needs in the tenth of the time."""
    (elsewhere["cwd"] / "export.py").unlink()
    (elsewhere["cwd"] / "export" / "embedded").mkdir(parents=True)
    elsewhere["env"]["PYTHONPATH"] = str(ROOT)
    done = run(sys.executable, "-m", "descargan_tf.export.client", "--help", **elsewhere)
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
