"""--mode=benchmark."""

import dataclasses
import functools
import itertools
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from descargan_tf import locks, program, run_folder
from descargan_tf.benchmark import report, tables
from descargan_tf.benchmark.grid import Grid
from descargan_tf.benchmark.plan import make_plans, row_settings
from descargan_tf.config import Config
from descargan_tf.data.dataset import dataset_of
from descargan_tf.errors import UserError
from descargan_tf.evaluation import figures
from descargan_tf.evaluation.evaluator import map_threshold
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.hardware import fast_precision
from descargan_tf.measures import HEADLINE
from descargan_tf.provenance import versions
from descargan_tf.training.backends import engine_maker, time_rounds
from descargan_tf.types import CLASS_NAMES, MASK


def benchmark(config: Config) -> int:
    """A grid of runs, and the paper's two tables of them."""
    folder = Path(config.run_dir)
    if config.dry_run:  # before plans, which build networks: TensorFlow's threads are settled by its first operation
        *_, first = row_settings(config, next(iter(config.runs)))
        make_engine = engine_maker(first, run_folder.build_method)
    plans = make_plans(config)
    run_folder.refuse_data_folder(dataclasses.replace(plans[0].config, run_dir=config.run_dir))
    if config.dry_run:
        return _dry_run(config, plans, make_engine)
    if (folder / RUN_FLAGS).exists():
        raise UserError(f"--run_dir={folder} is a run: name another folder for a benchmark.")
    # The first seed of every row comes first, so that the tables are soon complete if rough.
    turns = itertools.zip_longest(*(plan.runs for plan in plans))
    runs = [run for turn in turns for run in turn if run is not None]
    run_folder.make(config)
    program.go_on_unheard()  # reports and logs have it all
    refusal = (
        f"--run_dir={folder} is in use: a benchmark, or a run that one left behind, works there. Wait for it or stop "
        "it; finished runs are kept."
    )
    with locks.alone_in(folder, refusal) as held:
        if config.benchmark_tables_only:
            _write(config, plans, {}, say=True)
            return 0
        dataset_of(plans[0].config).check()  # drawn once, not by several runs at the same time

        def redraw(_):
            try:
                _write(config, plans, work.failures)
            except UserError as error:  # at the end it counts; now the other runs do
                tqdm.write(f"the tables are not up to date: {error}")

        work = Grid(runs, config.benchmark_jobs, redraw, held)
        work.work()
        _write(config, plans, work.failures, say=True)
    for run, (how, lines) in work.failures.items():
        print(f"FAILED: {run}: {how}\n{lines}", file=sys.stderr)
    if work.stop_signal is not None:
        print("stopped: run the same command to go on", file=sys.stderr)
        return 128 + work.stop_signal
    return 1 if work.failures else 0


def _dry_run(config, plans, make_engine):
    """What would be done and how long it would take; a few rounds of each row are timed."""
    total = 0.0
    for plan in plans:
        run, left = plan.runs[0], sum(not run.is_finished for run in plan.runs)
        saved = run.run_dir / RUN_FLAGS
        precise = run_folder.with_precision(plan.config, saved, functools.partial(fast_precision, config.backend))
        pace = time_rounds(precise, run_folder.build_method(precise), make_engine)
        total += pace.seconds * run.rounds * left
        parameters = " + ".join(f"{count:,} {name}" for name, count in plan.num_parameters.items())
        print(
            f"{plan.name}: {len(plan.runs)} runs, {left} to do; {run.rounds} rounds of {run.images_per_round} images, "
            f"{parameters} parameters, {pace}, {pace.seconds * run.rounds / 60:.0f} minutes a run\n"
            f"  python -m descargan_tf.main {shlex.join([*run.flags, f'--run_dir={run.run_dir}'])}",
            flush=True,
        )
    hours = total / config.benchmark_jobs / 3600
    print(f"about {hours:.1f} hours with {config.benchmark_jobs} at a time, if each is as fast as one alone just now")
    return 0


def _write(config, plans, failures, say=False):
    """Tables and report of the runs that are finished; what is missing is said in them."""
    folder = Path(config.run_dir)
    rows, found, columns, samples = [], {}, {}, None
    for plan in plans:
        done = [run for run in plan.runs if run.is_finished]
        found[plan.name] = [tables.read_run(run.run_dir, run.seed) for run in done]
        saliency = plan.runs[0].saliency
        row = report.Row(
            plan.name,
            plan.config.method,
            plan.flagfile,
            None if saliency == "none" else saliency,
            tuple(run.seed for run in done),
            {run.seed: _why_missing(run, failures) for run in plan.runs if run not in done},
            tables.budget(found[plan.name]) if done else None,
        )
        rows.append(row)
        if done:
            columns[row.label], samples = figures.read_samples(done[0].run_dir / "figures" / "samples.npz")
    made = tables.make_tables(found, plans[0].config.data_seed)
    # That of |GT| is the same for all; a saliency map's own is beside it. Against masks each run's maps have their own.
    thresholds = [run.report["threshold"] for runs in found.values() for run in runs if not _are_masks([run.report])]
    about = {
        "title": f"Benchmark: {folder.name}",
        "command": _command(config),
        "threshold": min(thresholds, key=lambda found: "map_value" in found[HEADLINE]) if thresholds else None,
        "facts": _facts(config, plans, found),
    }
    pictures = figures.draw_comparison(folder / "figures", columns, samples) if samples else []
    written = report.write(folder, rows, made, pictures, about)
    if say:
        print("\n".join(map(str, written)))


def _are_masks(reports):
    return any(report["threshold"][HEADLINE].get("ground_truth_kind") == MASK for report in reports)


def _has_own_threshold(report):
    """Whether the maps' threshold is not that of |GT|."""
    entry = report["threshold"][HEADLINE]
    is_own = entry.get("map_value") is not None or _are_masks([report])
    return is_own and map_threshold(entry) is not None


def _why_missing(run, failures):
    if run in failures:
        how, lines = failures[run]
        return f"failed, {how}: {lines.splitlines()[-1] if lines else 'it said nothing'}"
    return f"not finished: round {run.rounds_done} of {run.rounds}"


def _command(config):
    flags = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(Config)
        if field.name.startswith("benchmark_") or field.name in ("run_dir", "saliency")
    }
    del flags["benchmark_tables_only"]
    return run_folder.command("benchmark", **{name: value for name, value in flags.items() if value != ""})


def _facts(config, plans, found):
    """What is to be known of all runs together; `found`: evaluated runs by row."""
    one = plans[0].config
    reports = [run.report for runs in found.values() for run in runs]
    own = [
        f"{name}, seed {run.seed}: {map_threshold(run.report['threshold'][HEADLINE]):.3f}"
        for name, runs in found.items()
        for run in runs
        if _has_own_threshold(run.report)
    ]
    alone = [plan.name for plan in plans if len(plan.sees) < len(CLASS_NAMES)]
    counted = "images of both classes that pass through updates, each batch counted once however many updates use it"
    if alone:
        counted += f"; of {', '.join(alone)} the one class alone that it is trained on"
    healthy, diseased = dataset_of(one).counts("train")
    read = f"{healthy} of each class" if healthy == diseased else f"{healthy} healthy + {diseased} diseased"
    splits = {(report["split"]["num_healthy"], report["split"]["num_diseased"]) for report in reports}
    return {
        "Budget of every run": f"at most {config.benchmark_images:,} training images: {counted}",
        "Validations of a run": config.benchmark_validations,
        "Runs at a time": config.benchmark_jobs,
        "Flags for every run": config.benchmark_flags or "none beside the flagfiles",
        "Flagfiles": ", ".join(plan.flagfile for plan in plans),
        "Images": f"{one.dataset}, {one.image_size}x{one.image_size}, {read} to train on",
        "Test images": ", ".join(f"{healthy} healthy + {diseased} diseased" for healthy, diseased in sorted(splits)),
        "Precision": ", ".join(sorted({report["config"]["precision"] for report in reports})),
        f"Thresholds of {'the' if _are_masks(reports) else 'saliency'} maps": "; ".join(own) or "no saliency maps",
        "Data manifest digest": ", ".join(sorted({report["data_digest"] for report in reports})),
        "Code of the runs": ", ".join(sorted({str(report["git_commit"]) for report in reports})),
        "Machine": ", ".join(sorted({report["machine"] for report in reports})),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
