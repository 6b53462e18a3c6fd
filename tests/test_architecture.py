"""Imports go one way: an import against the arrow is a defect, and so is a circle."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

from descargan_tf.methods import METHODS

CHECKOUT = Path(__file__).parents[1]
ROOT = CHECKOUT / "descargan_tf"
# What the files of a part may import besides one another: parts, or single modules of one.
ALLOWED = {
    "descargan_tf": {"surroundings", "model"},  # its __init__.py
    "types": set(),
    "measures": {"types"},
    "errors": set(),
    "names": set(),
    "files": {"errors"},
    "signals": set(),
    "program": {"errors", "names", "files", "signals"},
    "locks": {"errors", "files"},
    "processes": {"errors", "signals"},
    "surroundings": {"errors", "files", "signals"},
    "flagfiles": {"errors", "files"},
    "losses": set(),
    "flag_fields": {"errors"},
    "server_flags": {"flag_fields"},
    "config": {"types", "errors", "flag_fields", "server_flags"},
    "flags": {"types", "errors", "config", "flag_fields", "flagfiles", "server_flags"},
    "hardware": {"processes"},
    "provenance": set(),
    "data": {"types", "errors", "names", "files", "locks", "signals", "processes", "config"},
    "models": {"types", "hardware"},
    "methods": {"types", "errors", "models", "losses"},
    "preparation": {"types", "errors", "names", "files", "locks", "signals", "processes", "data"},
    "inference": {"types", "processes", "hardware", "models", "methods"},
    "training": {"types", "errors", "files", "signals", "config", "hardware", "data", "models", "methods", "inference"},
    "prediction": {"types", "errors", "names", "files", "signals", "data", "preparation.fitting"},
    "evaluation": {"types", "measures", "errors", "names", "files", "processes", "data", "prediction"},
    "pretrained": {"config", "errors", "files", "evaluation", "measures", "methods", "prediction", "types"},
    "run_folder": {
        *("config", "flags", "errors", "files", "locks", "hardware"),
        *("data", "methods", "training", "pretrained"),
    },
    "benchmark": {
        *("types", "measures", "errors", "files", "signals", "config", "flags"),
        *("methods", "training", "evaluation", "run_folder"),
    },
    "export": {
        *("types", "measures", "errors", "names", "files", "signals", "program", "surroundings"),
        *("data", "models", "methods", "inference", "prediction", "evaluation"),
    },
    "export.embedded": {
        *("errors", "files", "names", "signals", "program", "flag_fields", "flagfiles", "server_flags", "surroundings"),
        *("export.warmup", "export.protos"),
    },
    "model": {"types", "errors", "names", "config", "flags", "data", "prediction", "training", "run_folder"},
    "commands": {
        *("types", "measures", "errors", "names", "files", "program", "signals", "locks"),
        *("config", "flags", "hardware", "provenance"),
        *("data", "preparation", "methods", "training", "prediction", "evaluation"),
        *("pretrained", "run_folder", "benchmark"),
        *("export", "export.embedded"),
    },
    "main": {"flags", "program", "surroundings", "commands", "run_folder"},
}
# What may touch TensorFlow, and what JAX: networks and losses run on any Keras backend, metrics on none.
BACKENDS = {
    "tensorflow": {
        "model.py",
        "data/pipeline.py",
        "models/blocks.py",
        "models/winograd.py",
        "hardware.py",
        "inference/folding.py",
        "inference/networks.py",
        "surroundings.py",
        "training/backends.py",
        "training/step.py",
    },
    "jax": {"models/blocks.py", "hardware.py", "training/jax_random.py", "training/jax_step.py"},
}


def module_of(path):
    """Its name as the program imports it: export/ is descargan_tf.export in a checkout, too."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    if parts[0] == "export":
        parts = ("descargan_tf", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    inner = module.removeprefix("descargan_tf.")
    return "export.embedded" if f"{inner}.".startswith("export.embedded.") else inner.split(".")[0]


# descargan_tf/export/ says that it is export/, and no more.
FILES = [path for folder in ("descargan_tf", "export") for path in sorted((CHECKOUT / folder).rglob("*.py"))]
MODULES = {module_of(path): path for path in FILES if path.parent != ROOT / "export"}
PACKAGES = {module for module, path in MODULES.items() if path.name == "__init__.py"}


@functools.cache
def imports(module):
    """(from where, what) of everything that a file imports, at its top or within a function; what is "" for modules."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
                source = ".".join(filter(None, (*package[: len(package) + 1 - node.level], node.module)))
            found += [(source, alias.name) for alias in node.names]
    return found


def names_imported(module):
    return {name for source, what in imports(module) for name in (source, f"{source}.{what}")}


def own_modules_imported(module):
    """`from a import b` imports the module a.b where there is one, else a."""
    found = {f"{source}.{what}" if f"{source}.{what}" in MODULES else source for source, what in imports(module)}
    return found & set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrow(module):
    part = part_of(module)
    for name in own_modules_imported(module):
        assert part_of(name) in {*ALLOWED[part], part} or name.removeprefix("descargan_tf.") in ALLOWED[part], (
            f"{MODULES[module].relative_to(CHECKOUT)} imports {name}"
        )


def test_nothing_is_imported_in_a_circle():
    graph = {module: own_modules_imported(module) for module in MODULES}
    assert sum(map(len, graph.values())) > len(graph)  # the names were understood
    graphlib.TopologicalSorter(graph).prepare()  # names the circle in its error


def test_export_is_imported_by_one_name():
    """A file export.py of the user's is not this project's."""
    for module in MODULES:
        assert not any(f"{name}.".startswith("export.") for name in names_imported(module)), MODULES[module]


OWN = [module for module in MODULES if part_of(module) not in ("export", "export.embedded", "descargan_tf")]


@pytest.mark.parametrize("module", OWN)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_stays_where_it_belongs(module, backend):
    allowed = str(MODULES[module].relative_to(ROOT)) in BACKENDS[backend]
    assert allowed or not any(name.split(".")[0] == backend for name in names_imported(module))


def test_no_method_is_named_outside_its_file():
    """But in the paper's printed numbers, which are data, and as the default of --method."""
    exempt = {"methods", "config", "evaluation/paper.py"}
    for module in OWN:
        path = MODULES[module]
        if {part_of(module), str(path.relative_to(ROOT))} & exempt:
            continue
        assert not {f"descargan_tf.methods.{name}" for name in METHODS} & names_imported(module), path
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in METHODS), f"{path}:{node.lineno}"


def test_the_systems_words_are_set_in_one_place():
    """`files.reason` says more than `strerror` does."""
    found = {
        path.relative_to(CHECKOUT).as_posix()
        for root in (ROOT, CHECKOUT / "export")
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "strerror"
    }
    assert found == {"descargan_tf/files.py"}
