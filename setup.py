"""What pyproject.toml cannot say: a package that lies elsewhere than its name, extras from the requirement files.

export/ becomes descargan_tf.export in a distribution. As a package of its own it would meet other people's `export` in
site-packages, and theirs it. In a checkout descargan_tf/export/__init__.py points at the folder instead.
"""

import itertools
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name):
    """The lines of a requirement file but those that name another one."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


EXTRAS = {
    "beam": requirements("requirements-beam.txt"),
    "formats": requirements("requirements-formats.txt"),
    "jax": requirements("requirements-jax.txt"),
    "medical": requirements("requirements-medical.txt"),
}
EXTRAS["dev"] = [*requirements("requirements-dev.txt"), *itertools.chain.from_iterable(EXTRAS.values())]

setup(
    packages=[
        *find_packages(include=["descargan_tf", "descargan_tf.*"]),  # with descargan_tf.export
        *(f"descargan_tf.{name}" for name in find_packages(include=["export.*"])),
        "descargan_tf.export.serving",  # files for TensorFlow Serving
    ],
    package_dir={"descargan_tf.export": "export"},
    extras_require=EXTRAS,
)
