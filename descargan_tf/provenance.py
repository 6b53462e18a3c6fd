"""What made a result: versions of the libraries, commit of the program."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import keras

_LIBRARIES = ("keras", "numpy", "scipy", "scikit-image", "scikit-learn")


def versions() -> dict[str, str]:
    """Of Python, of the backend in use and of the libraries that numbers come from."""
    names = (keras.backend.backend(), *_LIBRARIES)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def git_commit() -> str | None:
    """The program's commit, "-dirty" where files differ from it; None where there is no git or no repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            env={**_without_git(os.environ), "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a package, or no git: the report says "not recorded"
    return found.stdout.strip()


def _without_git(environment):
    """GIT_DIR and its kin, which a hook has set for one, name another repository."""
    return {name: value for name, value in environment.items() if not name.startswith("GIT_")}
