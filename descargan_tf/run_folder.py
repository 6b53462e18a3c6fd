"""What a run folder, or a folder of published weights, holds of a training, and how it is read."""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from descargan_tf import flags, locks, methods, pretrained
from descargan_tf.config import PUBLISHED, Config, published_folder
from descargan_tf.data.dataset import Dataset, dataset_of
from descargan_tf.data.folders import DataSummary
from descargan_tf.data.images import Scaling
from descargan_tf.errors import UserError
from descargan_tf.files import is_partial, reason, write_atomically
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.hardware import fast_precision
from descargan_tf.methods.base import Method
from descargan_tf.methods.saliency import explained
from descargan_tf.training import checkpoint
from descargan_tf.training.backends import forget_gone_variables, input_gradient

DATA_FACTS = "data.json"  # what prediction must know of the training data
REPORT = "report.json"
CHECKPOINTS = "checkpoints"
# What --init_from must find as it is: all else that shapes a network follows the images' size.
_SHAPING = (
    "generator_filters",
    "discriminator_filters",
    "discriminator_max_filters",
    "skip_connections",
    "generator_branches",
    "critic_branches",
    "output",
)
_OF_THE_DATA = ("dataset", "value_range", "num_train", "num_validate", "num_test", "data_seed", "flips")
_WITHOUT_METHOD = ("generate", "check_data", "serve", "benchmark")  # modes in which --method need not be one of ours


# ---- flags


def configure(argv: Sequence[str]) -> Config:
    """Flags to Config: `flags.parse` and `resolve`."""
    return resolve(flags.parse(argv))


def resolve(given: flags.Given) -> Config:
    """What is given, with the method's own defaults for what is not, and checked against what was trained.

    Raises:
        UserError: there is no such method; a flag was given for it that it does not have; another run's folder.
    """
    config, name = given.config, given.config.method
    if name not in methods.METHODS and config.mode in _WITHOUT_METHOD:
        return config
    defaults = methods.entry(name).defaults
    unused = flags.METHOD_FLAGS - defaults.keys()
    for flag in sorted(given.meant & unused):
        having = methods.names_with(flag)
        raise UserError(
            f"--{flag}: --method={name} has no such setting; {having} {'have' if ',' in having else 'has'} it."
        )
    values = {flag: getattr(config, flag) for flag in flags.METHOD_FLAGS - unused}
    resolved = {flag: defaults[flag] if value is None else value for flag, value in values.items()}
    config = dataclasses.replace(config, **resolved, **dict.fromkeys(unused))
    if given.saved is not None:
        config = _with_precision_of_run(config, given.saved)
        check_run(config, given.saved, _OF_THE_DATA if config.published else ())
    return config


def check(config: Config) -> Config:
    """The Config that a run is begun or taken up with, its precision made definite.

    Raises:
        UserError: --run_dir is something else, or a run with other settings; there is no such method.
    """
    methods.entry(config.method)
    refuse_data_folder(config)
    run_dir = Path(config.run_dir)
    saved = run_dir / RUN_FLAGS
    config = with_precision(config, saved, functools.partial(fast_precision, config.backend))
    if saved.exists():
        check_run(config, saved)
    elif run_dir.exists() and (not run_dir.is_dir() or any(map(_is_anothers, run_dir.iterdir()))):
        raise UserError(f"--run_dir={run_dir} holds something that is not a run: name another folder.")
    return config


def _is_anothers(path):
    """Not what a run that was killed while it began has left."""
    return path.name != locks.LOCK and not is_partial(path.name)


def read_saved(saved: Path) -> Config:
    """The configuration that a flagfile of a run, or of published weights, was written of."""
    return resolve(flags.Given(flags.read_saved(saved), frozenset(), None))


def with_precision(config: Config, saved: Path, fast: Callable[[], str]) -> Config:
    """--precision=auto made definite: what the run began with, else what the hardware is fast in."""
    if saved.exists():
        return _with_precision_of_run(config, saved)
    return config if config.precision != "auto" else dataclasses.replace(config, precision=fast())


def _with_precision_of_run(config, saved):
    if config.precision != "auto":
        return config
    before = flags.read_file(saved).get("precision", flags.FIELDS["precision"].default)
    return dataclasses.replace(config, precision=before)


def check_run(config: Config, saved: Path, let_pass: Collection[str] = ()) -> None:
    """Refuse a flagfile of what was trained that was made with other settings of its method, or of the run.

    Raises:
        UserError: names each setting, with both values.
    """
    before = flags.read_file(saved)
    # A flag that the file lacks is newer than the run.
    names = flags.OF_RUN & before.keys() - methods.unused_settings(config.method) - set(let_pass)
    differing = [
        f"--{name} is {flags.text_of(before[name])} there and {flags.text_of(getattr(config, name))} here"
        for name in flags.FIELDS
        if name in names and before[name] != getattr(config, name)
    ]
    if differing:
        is_run = not (saved.parent / PUBLISHED).exists()
        raise UserError(
            f"{'the run in --run_dir=' if is_run else ''}{saved.parent} was made with other settings: "
            f"{'; '.join(differing)}. Give the same settings, or name another folder."
        )


def published_lines(config: Config) -> str:
    """The flagfile of what a configuration trained, without the places, numbers and addresses of this machine."""
    kept = flags.OF_RUN | {"max_steps", "max_minutes", "batch_norm", "saliency"}
    return "".join(line for line in flags.lines(config).splitlines(True) if line[2:].partition("=")[0] in kept)


# ---- beginning, and the data


def refuse_data_folder(config: Config) -> None:
    """A run's files never lie among the data's, which may have the same names.

    Raises:
        UserError: --run_dir and --data_dir are one folder.
    """
    if config.data_dir and os.path.realpath(config.run_dir) == os.path.realpath(config.data_dir):
        raise UserError(f"--run_dir={config.run_dir} is the folder of the data, --data_dir: name another folder.")


def refuse_if_in_use(config: Config) -> None:
    """UserError where another process trains in the folder now."""
    locks.refuse_if_held(Path(config.run_dir), _in_use(config))


def make(config: Config) -> Path:
    """The folder that --run_dir names, where there is none yet.

    Raises:
        UserError: it cannot be written.
    """
    run_dir = Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run_dir={run_dir} cannot be written: {reason(error)}.") from error
    return run_dir


@contextlib.contextmanager
def begun_alone(config: Config, data: Dataset, facts: dict) -> Iterator[None]:
    """Make the folder, with what names the run, and keep other trainings out of it; reading it is open to all.

    Args:
        config: with which the program repeats it.
        data: that it is trained on.
        facts: `Dataset.training_facts`.

    Raises:
        UserError: it cannot be written, or another process has begun to train in it.
    """
    run_dir = make(config)
    with locks.alone_in(run_dir, _in_use(config)):
        check(config)  # once more: a process that has ended since may have begun another run here
        check_same_data(config, data, facts)
        write_atomically(run_dir / RUN_FLAGS, flags.lines(config).encode(errors="surrogateescape"))
        write_atomically(run_dir / DATA_FACTS, (json.dumps(facts, indent=1) + "\n").encode())
        yield


def _in_use(config):
    return (
        f"--run_dir={config.run_dir} is in use: {{holder}} trains there. Wait for it or stop it, or name another "
        "folder; --mode=evaluate and predict take what it has saved."
    )


def data_facts(folder: Path) -> dict:
    """What training wrote down of its data: "scaling", "dtype", "digest", and "files", which old ones do not have."""
    try:
        facts = json.loads((folder / DATA_FACTS).read_text())
        return {**facts, "scaling": Scaling(*facts["scaling"]), "dtype": facts["dtype"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / DATA_FACTS} cannot be read ({error}): it holds the training data's scaling."
        ) from error


def check_same_data(config: Config, data: Dataset, facts: dict) -> None:
    """Refuse to go on with a run on other data: its scaling, and what was learned, are the old one's.

    A run of an older version is gone on with where its one sum can still be of these data; `begun_alone` then writes
    down the files.

    Raises:
        UserError: names what differs.
    """
    path = Path(config.run_dir) / DATA_FACTS
    if not path.exists():
        return
    before = data_facts(path.parent)
    differing = data.differences(before, facts)
    if differing:
        older = "" if "files" in before else f" If the images are the same, remove {path} and start again."
        raise UserError(
            f"the run in --run_dir={config.run_dir} was trained on other data than --data_dir={config.data_dir} holds: "
            f"{'; '.join(differing)}. Give the same data, or name another folder for the run.{older}"
        )


# ---- weights


def build_method(config: Config) -> Method:
    """A new method with a Config's settings.

    Raises:
        UserError: there is none of that name, or it has not what else the Config asks for.
    """
    method = methods.build(config.method, dataclasses.asdict(config))
    forget_gone_variables(config)
    return method


class Restored(NamedTuple):
    """A method that answers, and where its weights come from."""

    method: Method
    folder: Path  # of the checkpoint, or of published weights
    about: dict  # what is written down there: "step" and more


def restore(config: Config) -> Restored:
    """A method with a checkpoint's averaged weights or published ones, and with --saliency its maps.

    Raises:
        UserError: there is no such checkpoint, or it is of other networks.
    """
    # What cannot be read is said before networks are built, which takes longer.
    if config.published:
        folder, about = config.published, pretrained.describe(config.published)
        arrays = pretrained.load(folder)
    else:
        folder = checkpoint.find(Path(config.run_dir), config.checkpoint)
        arrays, about = checkpoint.load(folder)
    method = build_method(config)
    if config.published:
        pretrained.assign(pretrained.weights_of(method), arrays, folder)
    else:
        for name, network in method.networks.items():
            stored = "averaged" if name == method.averaged else f"networks/{name}"
            checkpoint.assign(stored, network.weights, arrays, folder)
    if config.saliency != "none":
        method = explained(method, config.saliency, input_gradient(config))
    return Restored(method, folder, about)


def begins_with_published(config: Config) -> bool:
    """Whether --init_from counts: in a run that has trained it is past."""
    return bool(config.init_from) and not checkpoint.steps(Path(config.run_dir) / CHECKPOINTS)


def begun(config: Config) -> tuple[Method, list[str]]:
    """A new method, and the layers of it that begin anew with --init_from, where all others have published weights.

    Raises:
        UserError: there are no such weights, or of another method.
    """
    if not begins_with_published(config):
        return build_method(config), []
    folder = published_folder(config.init_from)
    if folder is None:
        raise UserError(f"--init_from={config.init_from} holds no {PUBLISHED}: name published weights.")
    theirs, weights = read_saved(folder / RUN_FLAGS), pretrained.load(folder)
    if theirs.method != config.method:
        raise UserError(f"--init_from={folder} is of --method={theirs.method}, this is {config.method}.")
    differing = [
        f"--{name} is {getattr(theirs, name)} there and {getattr(config, name)} here"
        for name in _SHAPING
        if getattr(theirs, name) != getattr(config, name)
    ]
    method = build_method(config)
    return method, pretrained.begin_with(pretrained.named_weights(method.networks), weights, differing)


def training_facts(config: Config, method: Method) -> dict:
    """How long the run has trained; the best checkpoint is one on the way there."""
    if config.published:
        about = pretrained.describe(config.published)
    else:
        checkpoints = Path(config.run_dir) / CHECKPOINTS
        latest = [checkpoints / str(step) for step in checkpoint.steps(checkpoints)[-1:]]
        about = checkpoint.describe(latest[0] if latest else checkpoint.find(Path(config.run_dir), config.checkpoint))
    images = method.images_per_round(config.batch_size)
    return {
        "rounds": about["step"],
        "images_per_round": images,
        "images": about["step"] * images,
        "seconds": about.get("trained_seconds"),
        "recoveries": about.get("recoveries", 0),
        "fixed_statistics_at": about.get("fixed_statistics_at"),
    }


# ---- results


def report_of(config: Config, step: int) -> tuple[dict | None, str]:
    """The run's report where it is of this checkpoint, and why there is none."""
    path = config.trained_dir / REPORT
    evaluate = command("evaluate", run_dir=config.run_dir, checkpoint=step)
    again = f"then {'publish' if config.mode == 'publish' else 'export'} again"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        done = "published" if config.mode == "publish" else "exported"
        return None, f"not evaluated when it was {done}. `{evaluate}` does it; {again}."
    if _step_of(found) != step:
        return None, f"{path} is of {found.get('checkpoint')}, this is step {step}. `{evaluate}`; {again}."
    for name, used in (("batch_norm_inference", config.batch_norm), ("saliency", config.saliency)):
        if used is not None and found.get(name, used) != used:
            return None, f"{path} was made with {name} {found[name]}, this with {used}."
    return found, ""


def _step_of(report):
    """Of the checkpoint that a report is of; reports of older versions have it at the end of a sentence alone."""
    if "checkpoint_step" in report:
        return report["checkpoint_step"]
    *_, last = str(report.get("checkpoint")).split("(step ")
    return int(last[:-1]) if last[:-1].isdigit() else None


def command(mode: str, **given) -> str:
    """A command of this program, to be pasted into a shell whatever is in the values."""
    flags_given = (f"--{name}={value}" for name, value in {"mode": mode, **given}.items())
    return f"python -m descargan_tf.main {shlex.join(flags_given)}"


def tensorboard_command(run_dir: Path) -> str:
    """What shows a run, with the environment's own program where it is not on the PATH."""
    program = "tensorboard"
    if not shutil.which(program):
        program = os.path.relpath(Path(sys.executable).parent / program)
    return shlex.join([program, "--logdir", str(run_dir)])


def prepare(config: Config, splits: tuple[str, ...], copies: float = 1) -> tuple[Dataset, DataSummary]:
    """The data that a run, or published weights, are shown: checked with the scaling of the training.

    Args:
        config: of the run.
        splits: that are shown, one at a time; the last is the largest.
        copies: how often its images are in memory at a time.

    Returns:
        The data set, and what was found in it.
    """
    data = dataset_of(config)
    scaling = data_facts(config.trained_dir)["scaling"]
    return data, data.check(splits, scaling, dict.fromkeys(splits[-1:], copies))
