"""The wheel, installed where nothing of the checkout is in sight, and files of the user's that bear a name of ours."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import program_starts
import pytest

import descargan_tf

ROOT = Path(__file__).resolve().parent.parent
BUILT_OF = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", *(p.name for p in ROOT.glob("requirements*.txt")))
EXPORT = Path("descargan_tf") / "export"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves folders beside what it reads
    source.mkdir()
    for name in ("descargan_tf", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_OF:
        shutil.copy(ROOT / name, source)
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", source)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel in it; what the wheel requires is lent by this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


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
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {path for path in wanted if "__pycache__" not in path.parts}
    assert {EXPORT / "embedded" / "viewer.html", EXPORT / "serving" / "models.config"} <= held
    assert {path.parts[0] for path in held} == {"descargan_tf"}
    with zipfile.ZipFile(wheel) as files:  # and not the one that points at the folder of a checkout
        assert files.read(str(EXPORT / "__init__.py")) == (ROOT / "export" / "__init__.py").read_bytes()


def test_a_wheel_says_what_it_needs(wheel):
    (found,) = metadata.distributions(path=[str(wheel)])
    assert found.version == descargan_tf.__version__
    assert set(found.metadata.get_all("Provides-Extra")) == {"beam", "formats", "jax", "medical", "dev"}
    needed = " ".join(found.requires)
    for name in ("tensorflow==2.21.0", "apache-beam", "onnxruntime", "jax", "pydicom", "nibabel", "pytest"):
        assert name in needed
    assert "-r " not in needed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found.metadata["Requires-Python"].split(",")[-1] in project["requires-python"]


def test_the_installed_command_has_help(environment, elsewhere):
    for command in ([environment / "descargan"], [environment / "python", "-m", "descargan_tf.main"]):
        done = run(*command, "--help", **elsewhere)
        assert done.returncode == 0, done.stderr
        assert "--flagfile" in done.stdout
        assert "--method:" in done.stdout
    where = run(environment / "python", "-c", "import descargan_tf; print(descargan_tf.__file__)", **elsewhere)
    assert where.stdout.startswith(str(environment.parent))


SERVE = ("--mode=serve", "--export_dir=none", "--rest_api_port=0")


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "checkout"])
def test_an_export_of_the_users_is_not_imported(installed, environment, elsewhere):
    """To serve a folder without versions, all of the server is imported before it is refused."""
    if installed:
        done = run(environment / "python", "-m", "descargan_tf.main", *SERVE, **elsewhere)
    else:
        elsewhere["env"]["PYTHONPATH"] = str(ROOT)
        process = program_starts.start(elsewhere["cwd"], *SERVE, env=elsewhere["env"])
        _, stderr = process.communicate()
        done = subprocess.CompletedProcess(process.args, process.returncode, stderr=stderr)
    assert done.returncode == 2
    assert "--rest_api_port=0 and --port=0 leave nothing to answer at" in done.stderr


def test_nor_is_a_folder_of_that_name(elsewhere):
    """By the client, which imports what it needs in the tenth of the time."""
    (elsewhere["cwd"] / "export.py").unlink()
    (elsewhere["cwd"] / "export" / "embedded").mkdir(parents=True)
    elsewhere["env"]["PYTHONPATH"] = str(ROOT)
    done = run(sys.executable, "-m", "descargan_tf.export.client", "--help", **elsewhere)
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
