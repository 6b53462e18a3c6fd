"""No file that the program reads can run code, and at run time it asks nothing of any other machine.

What tries is in the other tests: pickled arrays (test_checkpoint, test_images), paths that lead out of a folder
(test_preparation_sources, test_preparation_chexpert, test_prepared, test_generation), and all of them: conftest.py
lets them reach no machine but this one.
"""

import ast
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for folder in ("descargan_tf", "export") for path in sorted((ROOT / folder).rglob("*.py"))]
# Modules whose formats hold code.
CODE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "code", "codeop", "runpy"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Calls that run what is in a file, or a shell's words, by the last part of their names.
CALLS = {"load_model", "model_from_json", "model_from_config", "unsafe_load", "full_load", "system", "popen"}
# Modules that reach other machines, and calls that fetch.
NETWORK = {"urllib.request", "urllib3", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "xmlrpc", "grpc"}
FETCHES = {"get_file", "urlopen", "urlretrieve", "create_connection", "load_dataset", "hf_hub_download"}
# The client is what asks a model server, and the server answers; a socket elsewhere is asked for this machine's name.
CLIENT_AND_SERVER = {"export/client.py", "export/connection.py", "export/refusals.py"}
OF_A_NAME = {"descargan_tf/locks.py", "descargan_tf/training/writer.py"}
DYNAMIC = {"descargan_tf/preparation/sources.py", "descargan_tf/methods/__init__.py"}  # names of their own tables alone


def place(path):
    return path.relative_to(ROOT).as_posix()


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def is_of(name, modules):
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def faults(path, tree):
    """What is in a source that must not be."""
    for name in imported(tree):
        if is_of(name, CODE):
            yield f"imports {name}"
        reaches_out = is_of(name, NETWORK) or (name == "socket" and place(path) not in OF_A_NAME)
        if reaches_out and place(path) not in CLIENT_AND_SERVER and not place(path).startswith("export/embedded/"):
            yield f"imports {name}"
    for name, words in calls(tree):
        last = name.rpartition(".")[2]
        if name in BUILTINS or last in CALLS or words.get("shell", "False") != "False":
            yield f"calls {name}"
        if name == "np.load" and words.get("allow_pickle") != "False":
            yield "calls np.load without allow_pickle=False"
        if words.get("allow_pickle", "False") != "False" or words.get("safe_mode", "True") != "True":
            yield f"calls {name} for code"
        if last in FETCHES and place(path) not in CLIENT_AND_SERVER:
            yield f"calls {name}"
        if last == "import_module" and place(path) not in DYNAMIC:
            yield f"calls {name}"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_nothing_read_is_run_and_nothing_is_fetched(path):
    assert list(faults(path, ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval(x)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "keras.saving.load_model(x, safe_mode=False)",
        "subprocess.run(x, shell=True)",
        "import urllib.request",
        "from urllib import request",
        "import socket",
        "keras.utils.get_file(x)",
        "importlib.import_module(x)",
    ],
)
def test_each_of_them_would_be_seen(line):
    assert list(faults(ROOT / "descargan_tf" / "new.py", ast.parse(line)))


def test_a_test_that_reaches_for_another_machine_fails():
    with socket.socket() as far, pytest.raises(AssertionError, match="reached for"):
        far.connect(("192.0.2.1", 80))  # an address that is nobody's
