"""What documents say is there: files and headings that links lead to, commands, flags, and the glossary of traps."""

import ast
import dataclasses
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

from descargan_tf.config import Config

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("docs", "export", "pretrained", "configs")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
# Those that tell how things were may name flags and files that are gone.
MANUALS = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "recipe_log.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Not of Config: absl's own, and those of programs that read their command lines themselves.
OTHER_FLAGS = {"flagfile", "help"} | {
    name
    for path in (*(ROOT / "benchmarks").glob("*.py"), ROOT / "export" / "beam.py", ROOT / "export" / "client.py")
    for name in re.findall(r'"--([a-z_-]+)"', path.read_text())
}
FLAGS = {field.name: field.metadata["flag"] for field in dataclasses.fields(Config)}
HYPOTHETICAL = {"descargan_tf/methods/autoencoder.py"}  # what docs/adding_a_method.md would have one write
SOURCES = [
    path
    for folder in ("descargan_tf", "export", "tests", "benchmarks", "configs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".flags")
]


def identity(path):
    return str(path.relative_to(ROOT))


def prose(path):
    return FENCE.sub("", path.read_text())


def spans(path):
    """Pieces of code within sentences; one may run over the end of a line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def anchors(path):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path):
    """Those of shell blocks and sentences that begin with python or make, as lists of words."""
    blocks = [text.replace("\\\n", " ") for language, text in FENCE.findall(path.read_text()) if language == "sh"]
    lines = [*"\n".join(blocks).replace("nohup ", "").splitlines(), *spans(path)]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(\S*/)?(python|make) ", line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=identity)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        led_to = (path.parent / name).resolve() if name else path
        assert led_to.exists(), target
        assert not anchor or anchor in anchors(led_to), target


def test_every_page_is_linked():
    linked = {
        (path.parent / target.partition("#")[0]).resolve()
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(path))
    }
    assert set(DOCUMENTS) - linked - {ROOT / "README.md"} == set()


@pytest.mark.parametrize("path", MANUALS, ids=identity)
def test_commands_can_be_given(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in commands(path):
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets, words
        elif words[0] == "-m":
            assert is_there(words[1]), words
        elif words[0] != "-c":
            assert (ROOT / words[0]).exists(), words
        if words[:2] == ["-m", "descargan_tf.main"]:
            assert_flags_are_known(words[2:])


def is_there(module):
    top = module.partition(".")[0]
    if top not in ("descargan_tf", "export"):
        return importlib.util.find_spec(top) is not None
    within = ROOT / module.replace("descargan_tf.export", "export").replace(".", "/")
    return within.with_suffix(".py").exists() or (within / "__main__.py").exists()


def assert_flags_are_known(words):
    for word in words:
        if not word.startswith("--"):
            continue
        name, _, value = word.removeprefix("--").partition("=")
        assert name in FLAGS or name in OTHER_FLAGS, word
        if name == "flagfile":
            assert "<" in value or any((folder / value).exists() for folder in (ROOT, ROOT / "configs")), word
        elif choices := FLAGS[name].choices if name in FLAGS else ():
            assert not value or set(re.split(r"[|,]", value.replace("\\", ""))) <= set(choices), word


@pytest.mark.parametrize("path", MANUALS, ids=identity)
def test_flags_and_files_in_sentences_are_there(path):
    for span in spans(path):
        if re.match(r"--[a-z]", span):
            assert_flags_are_known(span.split())
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/[\w.-]+\.(py|flags|md|txt|yml|yaml|config)", span):
            bases = (ROOT, ROOT / "descargan_tf", path.parent)
            assert span in HYPOTHETICAL or any((base / span).exists() for base in bases), span


@pytest.mark.parametrize("path", DOCUMENTS, ids=identity)
def test_python_in_documents_is_python(path):
    for language, text in FENCE.findall(path.read_text()):
        if language == "python":
            ast.parse(text)


def test_make_test_fast_names_files_that_are_there():
    names = re.findall(r"tests/test_\w+\.py", (ROOT / "Makefile").read_text())
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


# ---- traps


def traps_cited():
    """Numbers of the authors' rules that comments name, those within "D1.1 to D1.3" too."""
    found = {}
    for path in SOURCES:
        text = path.read_text()
        for chapter, first, last in re.findall(r"\bD(\d+)\.(\d+)(?:\s+to\s+D\1\.(\d+))?\b", text):
            for number in range(int(first), int(last or first) + 1):
                found.setdefault(f"D{chapter}.{number}", identity(path))
    return found


def traps_explained():
    return re.findall(r"^\| (D\d+\.\d+) \| .{20,} → .{3,} \|$", (ROOT / "docs" / "traps.md").read_text(), re.MULTILINE)


def test_every_trap_that_is_cited_has_an_entry():
    explained = set(traps_explained())
    assert {number: where for number, where in traps_cited().items() if number not in explained} == {}


def test_every_entry_of_the_traps_is_cited_and_in_order():
    entries, cited = traps_explained(), traps_cited()
    assert [number for number in entries if number not in cited] == []
    numbers = [tuple(map(int, number[1:].split("."))) for number in entries]
    assert all(a < b for a, b in itertools.pairwise(numbers))
