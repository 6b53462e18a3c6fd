"""Flags: what is declared, parsed and refused, and where each value was given. absl's are read nowhere else."""

import dataclasses
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from descargan_tf import flag_fields, flagfiles
from descargan_tf.config import PRETRAINED, Config, published_folder
from descargan_tf.errors import UserError
from descargan_tf.flagfiles import Argument
from descargan_tf.server_flags import ServerFlags
from descargan_tf.types import DRAWN

RUN_FLAGS = "flags.txt"  # the flagfile in the folder of a run, or of published weights
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
METHOD_FLAGS = frozenset(name for name, field in FIELDS.items() if field.metadata["flag"].of_method)
OF_RUN = frozenset(name for name, field in FIELDS.items() if field.metadata["flag"].of_run)
PATHS = frozenset(name for name, field in FIELDS.items() if field.metadata["flag"].is_path)
_TRAINED_MODES = ("evaluate", "predict", "export", "serve", "publish")
_OF_THE_BENCHMARK = {"mode", "run_dir", "dry_run", "saliency"}
_OF_ONE_RUN = {
    "method": "name rows in --benchmark_runs",
    "seed": "name seeds in --benchmark_runs",
    "max_steps": "it follows from --benchmark_images",
    "max_minutes": "its length is --benchmark_images, so that all see as many",
}
# Flags of earlier versions by name, with the value at which they did nothing; None: they never changed a result.
_GONE = {
    "critic_blur": "0",
    "critic_blur_steps": "0",
    "reals_per_fake": "1",
    "generator_warmup_steps": "0",
    "generator_initial_learning_rate": "0",
    "discriminator_warmup_steps": "0",
    "discriminator_initial_learning_rate": "0",
    "num_workers": None,
    "adversarial_delay_steps": "0",
    "fake_classes": "opposite",
    "penalty_score": "mean",
    "critic_padding": "0",
    "noise": "0",
}
_GONE_VALUE = ("output", "additive")
_LAST_WITH_THEM = "version 0.1.0 (commit 32dd519)"


class Given(NamedTuple):
    """What flags say, before it is known what the method says of those that were not given."""

    config: Config  # a method's settings that were not given are None
    meant: frozenset[str]  # names that were given for this very method, see `_meant`
    saved: Path | None  # the flagfile of what was trained, from which they start


class _Read(NamedTuple):
    values: dict  # of every field; None where a method's setting was not given
    sources: dict[str, Path | None]  # where each flag that was given was given last
    run_name: str  # after the first flagfile of the command line


# ---- parse


def declare(flag_values: flags.FlagValues) -> None:
    """Register every field of Config as an absl flag."""
    flag_fields.declare(Config, flag_values)


def parse(argv: Sequence[str]) -> Given:
    """Flags, checked as far as they can be without the method that they are for.

    `--mode=evaluate`, `predict`, `export`, `serve` and `publish` start from the flags of what was trained, so that
    naming the run's folder is enough, or that of published weights, whose results go to runs/pretrained/<name>.

    Args:
        argv: program name, then flags.

    Raises:
        UserError: an unknown flag, a value out of range, a combination that cannot be, a run folder that is none.
    """
    found = _read(argv)
    saved, run_dir = _trained(found.values, found.run_name)
    values = found.values
    if saved is not None:
        backend = values["backend"]  # of this machine: a run is evaluated elsewhere than it was trained
        values = _read([argv[0], f"--flagfile={saved}", *argv[1:]]).values | {"backend": backend}
    values |= {"run_dir": run_dir, "data_dir": _data_dir(values)}
    if values["mode"] == "benchmark":
        return Given(Config(**values | _for_every_run(found)), frozenset(), None)  # what is meant is for its rows
    return Given(Config(**values), _meant(found.sources), saved)


def _data_dir(values):
    if values["data_dir"] or (values["dataset"] not in DRAWN and values["mode"] != "generate"):
        return values["data_dir"]
    kind = values["dataset"] if values["dataset"] in (*DRAWN, "chest_phantom") else "synthetic"
    return str(Path("data") / f"{kind}_{values['image_size']}")


def _trained(values, run_name):
    """The flagfile of what was trained, None in modes that start from nothing, and the run's folder."""
    run_dir = values["run_dir"] or (str(Path("runs") / run_name) if run_name else "")
    serves_others = values["mode"] == "serve" and (values["model_base_path"] or values["model_config_file"])
    if values["mode"] not in _TRAINED_MODES or serves_others:
        return None, run_dir
    if published := published_folder(values["checkpoint"]):
        run_dir = run_dir or str(Path("runs") / PRETRAINED / published.name)
        if (Path(run_dir) / RUN_FLAGS).exists():
            raise UserError(
                f"--run_dir={run_dir} is a run of its own: name another folder for what {published} makes of the data."
            )
        return published / RUN_FLAGS, run_dir
    if not run_dir:
        return None, ""
    saved = Path(run_dir) / RUN_FLAGS
    if not saved.exists():
        raise UserError(f"--run_dir={run_dir} is not a run: it holds no {RUN_FLAGS}. Train first (--mode=train).")
    return saved, run_dir


def _meant(sources):
    """Flags that were given for this very method: on the command line, or in the flagfile that chooses the method.

    All others come from flagfiles that several methods share, or from a run's own, in which earlier versions wrote the
    flags of all methods: there a flag that the method does not have is passed over.
    """
    chosen_in = sources.get("method")
    if chosen_in is not None and chosen_in.name == RUN_FLAGS:
        chosen_in = None
    return frozenset(name for name, source in sources.items() if source is None or source == chosen_in)


def _for_every_run(found):
    """What a benchmark is given beside its own flags is meant for its runs."""
    present = [name for name in FIELDS if name in found.sources]
    for name in sorted(_OF_ONE_RUN.keys() & set(present)):
        raise UserError(f"--{name} is set for each run of a benchmark by itself: {_OF_ONE_RUN[name]}.")
    joining = [name for name in present if name not in _OF_THE_BENCHMARK and not name.startswith("benchmark_")]
    joined = shlex.join(f"--{name}={text_of(found.values[name])}" for name in joining)
    return {
        **{name: FIELDS[name].default for name in (*joining, "data_dir")},
        "benchmark_flags": " ".join(filter(None, (found.values["benchmark_flags"], joined))),
    }


def read_saved(path: Path) -> Config:
    """What a flagfile of a run, or of published weights, gives; settings that its method has not are None.

    Raises:
        UserError: it cannot be read, or a value cannot be.
    """
    values = {**_read(["saved", f"--flagfile={path}"]).values, "mode": "generate"}
    return Config(**values | {"data_dir": _data_dir(values)})


def read_file(path: Path) -> dict:
    """The flags that a flagfile gives, by name; those of earlier versions that did nothing are left out.

    Raises:
        UserError: it cannot be read, or a value cannot be.
    """
    found = _read(["saved", f"--flagfile={path}"])
    return {name: found.values[name] for name in FIELDS if name in found.sources}


def _read(argv):
    flag_fields.help_if_asked(Config, argv, "python -m descargan_tf.main --flagfile=configs/quickstart.flags")
    arguments = _without_gone_flags(flagfiles.expanded(argv[1:]))
    values = flag_fields.values(Config, [argv[0], *(argument.text for argument in arguments)])
    sources = {name: part[0].source for name, part in _named(arguments) if name in FIELDS}
    for name in PATHS:
        if sources.get(name) and re.fullmatch(r"(['\"]).*\1", values[name]):
            raise UserError(f"--{name}={values[name]} in {sources[name]}: a flagfile takes no quotes, leave them out.")
    return _Read(values, sources, flagfiles.first_name(argv[1:]))


def _named(arguments) -> Iterator[tuple[str, list[Argument]]]:
    """Arguments by the flag that they give, one or two for each: --name=value, --noname, --name value."""
    left = iter(arguments)
    for argument in left:
        name, equals, _ = argument.text.lstrip("-").partition("=")
        part = [argument]
        if not argument.text.startswith("-"):
            name = ""
        elif name.startswith("no") and name not in FIELDS and name.removeprefix("no") in FIELDS:
            name = name.removeprefix("no")
        elif not equals and not (name in FIELDS and FIELDS[name].metadata["flag"].kind is bool):
            part.extend([following] if (following := next(left, None)) is not None else [])
        yield name, part


def without(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Arguments but those that give one of some flags."""
    parts = _named([Argument(text, None) for text in arguments])
    return [argument.text for name, part in parts if name not in names for argument in part]


def names_in(arguments: Sequence[str]) -> list[str]:
    """The flags that arguments give."""
    return [name for name, _ in _named([Argument(text, None) for text in arguments])]


# ---- what is no flag any more


def _without_gone_flags(arguments):
    """Pass over what earlier versions wrote into flagfiles and what did nothing there.

    Raises:
        UserError: it did something; names the flags, since when there are none of these, and what to do.
    """
    gone, kept = [], []
    for name, part in _named(arguments):
        is_old_value = part[0].source is not None and (name, _value(part)) == _GONE_VALUE
        if name not in _GONE and not is_old_value:
            kept.extend(part)
        elif part[0].source is None or is_old_value or not _did_nothing(name, _value(part)):
            gone.append((part[0].source, " ".join(argument.text for argument in part)))
    if not gone:
        return kept
    source = gone[0][0]
    texts = ", ".join(dict.fromkeys(text for other, text in gone if other == source))
    since = f"of earlier versions, the last of which is {_LAST_WITH_THEM}"
    if source is None:
        raise UserError(
            f"{texts}: {since}. Leave them out; --rules=program is the authors' program, --warmup_steps rising rates."
        )
    if source.name == RUN_FLAGS:
        raise UserError(
            f"{source} names flags {since}: {texts}. What was trained with them needs that version, or the one that "
            f"wrote it (git checkout the git_commit in {source.parent / 'checkpoints'}/<step>/checkpoint.json); or "
            "train anew with today's flags in another --run_dir."
        )
    raise UserError(
        f"--flagfile={source} names flags {since}: {texts}. Take them out; --rules=program is the authors' program, "
        "--warmup_steps rising rates."
    )


def _value(part):
    return part[0].text.partition("=")[2] if "=" in part[0].text else part[-1].text


def _did_nothing(name, value):
    idle = _GONE[name]
    try:
        return idle is None or float(value) == float(idle)
    except ValueError:
        return value == idle


# ---- and back


def lines(config: Config) -> str:
    """The flagfile that reruns this configuration; a server's flags and settings of other methods are not in it."""
    left_out = {"mode", *(field.name for field in dataclasses.fields(ServerFlags))}
    values = dataclasses.asdict(config).items()
    values = {name: value for name, value in values if name not in left_out and value is not None}
    return "".join(f"--{name}={text_of(value)}\n" for name, value in values.items())


def text_of(value) -> str:
    """A value as flagfiles and messages have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
