"""Imports go one way: an import against the arrow is a defect."""

import ast
from pathlib import Path

import pytest

from descargan_tf.methods import METHODS

ROOT = Path(__file__).parents[1] / "descargan_tf"
ALLOWED = {
    "types": set(),
    "measures": {"types"},
    "errors": set(),
    "files": {"errors"},
    "losses": set(),
    "config": {"errors"},
    "hardware": set(),
    "provenance": set(),
    "data": {"types", "errors", "files", "config"},
    "models": {"types"},
    "methods": {"types", "errors", "models", "losses"},
    "training": {"types", "errors", "config", "hardware", "data", "models", "methods"},
    "prediction": {"types", "errors", "files", "data"},
    "evaluation": {"types", "measures", "errors", "files", "data", "prediction"},
    "pretrained": {"config", "errors", "evaluation", "measures", "methods", "prediction", "types"},
    "run_folder": {"config", "errors", "files", "hardware", "data", "methods", "training", "pretrained"},
    "benchmark": {
        *("types", "measures", "errors", "files", "config"),
        *("methods", "training", "evaluation", "run_folder"),
    },
    "commands": {
        *("types", "errors", "config", "hardware", "provenance"),
        *("data", "methods", "training", "prediction", "evaluation", "pretrained", "run_folder", "benchmark", "export"),
    },
    "main": {"config", "errors", "commands", "training"},
}
# What may touch TensorFlow, and what JAX: networks and losses run on any Keras backend, metrics on none.
BACKENDS = {
    "tensorflow": {
        "commands/publish.py",
        "data/pipeline.py",
        "models/blocks.py",
        "hardware.py",
        "training/backends.py",
        "training/step.py",
    },
    "jax": {"hardware.py", "training/jax_random.py", "training/jax_step.py"},
}


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.name != "__init__.py" or p.parent != ROOT]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrow(path):
    part = part_of(path)
    for name in imports(path):
        if name.startswith("descargan_tf."):
            assert name.split(".")[1] in {*ALLOWED[part], part}, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_stays_where_it_belongs(path, backend):
    allowed = str(path.relative_to(ROOT)) in BACKENDS[backend]
    assert allowed or not any(name.split(".")[0] == backend for name in imports(path))


def test_no_method_is_named_outside_its_file():
    """But in the paper's printed numbers, which are data, and as the default of --method."""
    exempt = {"methods", "config", "evaluation/paper.py"}
    for path in FILES:
        if {part_of(path), str(path.relative_to(ROOT))} & exempt:
            continue
        assert not {f"descargan_tf.methods.{name}" for name in METHODS} & set(imports(path)), path
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in METHODS), f"{path}:{node.lineno}"
