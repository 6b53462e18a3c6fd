"""What a benchmark is to run: its rows, with the budget of each in rounds, and the flags of each run."""

import dataclasses
import shlex
from pathlib import Path

from descargan_tf import flags, methods, run_folder
from descargan_tf.benchmark.grid import Run
from descargan_tf.config import Config
from descargan_tf.errors import UserError
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Plan:
    """One row of a benchmark."""

    name: str
    flagfile: str
    config: Config  # of its first run
    num_parameters: dict
    sees: tuple
    runs: tuple[Run, ...]


def make_plans(config: Config) -> list[Plan]:
    """What is to be run, checked as far as it can be before anything is.

    Raises:
        UserError: a flagfile cannot be read or is of other data than the first; a run folder was made with other
            settings, or has trained for longer than the budget.
    """
    plans = [_plan(config, name, seeds) for name, seeds in config.runs.items()]
    _refuse_flags_of_no_row(config, plans)
    first = plans[0]
    for plan in plans[1:]:
        for flag in ("dataset", "data_dir", "image_size", "num_train", "num_validate", "num_test", "data_seed"):
            ours, theirs = getattr(plan.config, flag), getattr(first.config, flag)
            if ours != theirs:
                raise UserError(
                    f"--benchmark_runs: --{flag} is {theirs} for {first.name} and {ours} for {plan.name}; rows of one "
                    "table need the same data."
                )
    return plans


def row_settings(config: Config, name: str) -> tuple[str, tuple[str, ...], Config]:
    """What a row trains with, but for the lengths that its budget sets; nothing is built.

    Returns:
        Its flagfile, its flags, and what they come to.

    Raises:
        UserError: there is no such flagfile, or it cannot be read.
    """
    flagfile = config.benchmark_flagfiles.replace("{}", name)
    if not Path(flagfile).is_file():
        raise UserError(f"--benchmark_runs: there is no {flagfile} for {name} (--benchmark_flagfiles says where).")
    given = (f"--flagfile={flagfile}", *shlex.split(config.benchmark_flags), "--max_minutes=0")
    # What is meant for all rows is passed over where a row's method does not have it.
    unused = methods.unused_settings(flags.parse(["main", *given]).config.method)
    given = tuple(flags.without(given, unused))
    return flagfile, given, run_folder.configure(["main", *given])


def _plan(config, name, seeds):
    flagfile, given, base = row_settings(config, name)
    try:
        method = methods.build(base.method, {**dataclasses.asdict(base), "precision": "float32"})
    except UserError as error:
        raise UserError(f"{flagfile}: {error}") from None
    images = method.images_per_round(base.batch_size)
    rounds = config.benchmark_images // images
    if not rounds:
        raise UserError(
            f"--benchmark_images={config.benchmark_images} are less than the {images} of a single round of {name}."
        )
    every = -(-rounds // config.benchmark_validations)
    given += (
        f"--max_steps={rounds}",
        f"--validate_every_steps={every}",
        f"--checkpoint_every_steps={every}",
        f"--log_every_steps={min(base.log_every_steps, every)}",
    )
    saliency = config.saliency if method.only_classifies else "none"
    folder, runs = Path(config.run_dir), []
    for seed in seeds:
        run = Run(
            name=name,
            seed=seed,
            run_dir=folder / f"{name}_seed{seed}",
            log=folder / "logs" / f"{name}_seed{seed}.log",
            flags=(*given, f"--seed={seed}"),
            evaluation_flags=("--checkpoint=best", f"--saliency={saliency}"),
            saliency=saliency,
            rounds=rounds,
            images_per_round=images,
        )
        _refuse_other_run(run)
        runs.append(run)
    first = run_folder.configure(["main", *runs[0].flags, f"--run_dir={runs[0].run_dir}"])
    return Plan(name, flagfile, first, method.num_parameters, method.sees, tuple(runs))


def _refuse_flags_of_no_row(config, plans):
    rows = {plan.config.method for plan in plans}
    unused = set.intersection(*(methods.unused_settings(method) for method in rows))
    for name in flags.names_in(shlex.split(config.benchmark_flags)):
        if name in unused:
            raise UserError(f"--{name}: no row's method has such a setting; {methods.names_with(name)} would.")


def _refuse_other_run(run):
    """As training would, but before any run of the benchmark begins."""
    saved = run.run_dir / RUN_FLAGS
    if saved.exists():
        config = run_folder.configure(["main", *run.flags, f"--run_dir={run.run_dir}"])
        run_folder.check(config)
        planned = run_folder.configure(["main", f"--flagfile={saved}"]).max_steps
        if config.decay_steps and planned != run.rounds:
            raise UserError(
                f"{run}: {run.run_dir} was begun for {planned} rounds, at whose end its learning rates are zero; the "
                f"budget is {run.rounds}: give the same --benchmark_images, or name another --run_dir."
            )
    steps = checkpoint.steps(run.run_dir / run_folder.CHECKPOINTS)
    if steps and steps[-1] > run.rounds:
        raise UserError(
            f"{run}: {run.run_dir} has trained {steps[-1]} rounds and the budget is {run.rounds}: raise "
            "--benchmark_images, or name another --run_dir."
        )
