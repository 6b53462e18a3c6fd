"""One function per --mode: puts the packages together, holds no arithmetic."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from descargan_tf import config as config_module
from descargan_tf import methods, pretrained
from descargan_tf.benchmark import Grid, Run, alone_in
from descargan_tf.config import Config
from descargan_tf.data import folders, synthetic
from descargan_tf.data.images import IMAGE_SUFFIXES, Scaling
from descargan_tf.errors import UserError
from descargan_tf.evaluation import benchmark_report, benchmark_tables, evaluator, figures, pages, report
from descargan_tf.evaluation.validation import validate
from descargan_tf.files import write_atomically
from descargan_tf.methods import METHODS, two_statistics
from descargan_tf.methods.classifier import Classifier
from descargan_tf.methods.saliency import explained
from descargan_tf.prediction import find_inputs, predict_files
from descargan_tf.training import checkpoint
from descargan_tf.training.hardware import (
    describe_machine,
    fast_precision,
    keep_freed_memory,
    leave_activations_unfused,
)
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS, Split

# What needs TensorFlow is imported where it is used: --backend=jax does without.
_DATA_FACTS = "data.json"  # in the run folder: what prediction must know of the training data
_REPORT = "report.json"
_PREDICTION_BATCH = 16
_COMPILED_CODE = Path(".cache") / "descargan_tf" / "jax"  # in the home folder
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


def generate(config: Config) -> int:
    """--mode=generate: write the synthetic data set."""
    _generate(config)
    return 0


def check_data(config: Config) -> int:
    """--mode=check_data: read everything, say what is there."""
    _checked_data(config)
    manifest = synthetic.read_manifest(config.data_dir)
    if manifest:
        synthetic.verify_checksums(config.data_dir, manifest)
        print(f"all {len(manifest['sha256'])} files are as they were generated")
    return 0


def train(config: Config) -> int:
    """--mode=train: start a run, or take it up where it stopped."""
    run_dir = Path(config.run_dir)
    saved = run_dir / config_module.RUN_FLAGS
    config = config_module.with_precision(config, saved, functools.partial(fast_precision, config.backend))
    if saved.exists():
        config_module.check_run(config, saved, _settings_of_other_methods(config.method))
    elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"--run_dir={run_dir} holds something that is not a run: name another folder.")
    if config.method not in METHODS:
        raise UserError(f"--method={config.method} is not known; known are {', '.join(METHODS)}.")
    keep_freed_memory()
    make_engine = _engine_maker(config)
    if config.dry_run:
        return _dry_run(config, make_engine)
    summary = _checked_data(config)
    facts = {"scaling": summary.scaling, "dtype": summary.dtype, "digest": _digest(config)}
    if (run_dir / _DATA_FACTS).exists():
        _check_same_data(config, facts)
    splits = {name: _load(config, name, summary.scaling) for name in ("train", "validate")}
    if _begins_with_published(config):  # its refusals must come before there is a run
        print(f"begins with {config.init_from}, all but {', '.join(_begun(config)[1]) or 'nothing'}")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, config_module.flag_lines(config).encode())
        write_atomically(run_dir / _DATA_FACTS, (json.dumps(facts, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"--run_dir={run_dir} cannot be written: {error.strerror or error}.") from error
    threshold = evaluator.calibrate(splits["validate"])["image_units"]["value"]

    def validation(predict, monitor, translate):
        return validate(predict, monitor, translate, splits["validate"], threshold, _PREDICTION_BATCH)

    _seed(config)
    engine = make_engine(config, splits["train"])
    _print_networks(engine.method)
    names = {field.name for field in dataclasses.fields(LoopSettings)}
    settings = LoopSettings(**{name: value for name, value in dataclasses.asdict(config).items() if name in names})
    facts = {"machine": describe_machine(config.backend), "git_commit": _git_commit()}
    Trainer(run_dir, engine, settings, validation, facts).run()
    print(f"trained: {run_dir}\nTensorBoard:  {_tensorboard(run_dir)}")
    return 0


def evaluate(config: Config) -> int:
    """--mode=evaluate: Tables 1 and 2 on the test split, with figures."""
    started = time.perf_counter()
    run_dir = Path(config.run_dir)
    method, folder, about = _restore(config)
    names = ("test",) if _takes_published_thresholds(config) else ("validate", "test")
    summary = _checked_data(config, names, _data_facts(config.trained_dir)["scaling"])
    answer = _compiled_predict(config, method)
    thresholds = _thresholds(config, answer, summary.scaling)
    test, digest = _load(config, "test", summary.scaling), _digest(config)
    with tqdm(total=len(test.images), unit="image", disable=None, desc="predict") as bar:
        prediction = evaluator.predict_split(
            answer,
            test.images,
            min(_PREDICTION_BATCH, len(test.images)),
            lambda done, _: bar.update(done - bar.n),
        )
    result = evaluator.evaluate_split(prediction, test, thresholds, config.seed)
    try:
        pictures = figures.draw_all(run_dir / "figures", prediction, test, thresholds["image_units"]["value"])
        figures.write_samples(run_dir / "figures" / "samples.npz", prediction, test)
        report.write_report(
            run_dir,
            result,
            pictures,
            {
                "method": config.method,
                "config": dataclasses.asdict(config),
                "versions": _versions(),
                "git_commit": _git_commit(),
                "checkpoint": f"{folder} (step {about['step']})",
                "data_digest": digest,
                "batch_norm_inference": config.batch_norm,
                "saliency": config.saliency,
                "num_parameters": {name: _num_parameters(network) for name, network in method.networks.items()},
                "training": _training(config, method),
                "machine": describe_machine(config.backend),
                "command": _evaluate_command(config),
                "wall_seconds": time.perf_counter() - started,
            },
        )
    except OSError as error:
        raise UserError(
            f"--run_dir={run_dir} cannot be written: {error.strerror or error}: {error.filename}."
        ) from error
    print(report.format_table(result))
    print(f"\nreport:       {run_dir / 'report.html'} (also report.md, report.json, per_image.csv)")
    print(f"figures:      {run_dir / 'figures'}\nTensorBoard:  {_tensorboard(run_dir)}")
    return 0


def predict(config: Config) -> int:
    """--mode=predict: maps and a CSV for image files."""
    files = find_inputs(config.input)
    ignored = folders.list_images(config.input)[1] if Path(config.input).is_dir() else 0
    method, _, _ = _restore(config)
    facts = _data_facts(config.trained_dir)
    output_dir = Path(config.output_dir or Path(config.run_dir) / "predictions")
    try:
        with tqdm(total=len(files), unit="image", disable=None, desc="predict") as bar:
            failed = predict_files(
                _compiled_predict(config, method),
                files,
                output_dir,
                config.image_size,
                facts["scaling"],
                facts["dtype"],
                _PREDICTION_BATCH,
                bar.update,
            )
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error.strerror or error}.") from error
    print(f"{len(files) - len(failed)} of {len(files)} images done: {output_dir / 'predictions.csv'}")
    if ignored:
        endings = " ".join(IMAGE_SUFFIXES)
        print(f"passed over: {ignored} subfolders, hidden files and files that do not end in {endings}")
    for message in failed:
        print(f"not done: {message}", file=sys.stderr)
    return 1 if failed else 0


def export(config: Config) -> int:
    """--mode=export: a version for TensorFlow Serving, verified before it is published."""
    from descargan_tf.export import exporter
    from descargan_tf.export.bytes_input import FileRule
    from descargan_tf.export.formats import check_formats
    from descargan_tf.export.publish import refuse_version

    check_formats(config.formats)
    base = _export_base(config)
    refuse_version(base, config.export_version)
    facts = _data_facts(config.trained_dir)
    rule = FileRule(facts["scaling"], facts["dtype"])
    live, checkpoint_folder, about = _restore(dataclasses.replace(config, precision=config.export_precision))
    live_float32, _, _ = _restore(dataclasses.replace(config, precision="float32"))
    found, reason = _report_of(config, about["step"])

    def describe(predictor):
        return {
            "report": found,
            "no_report": reason,
            "other_precision": _measured_again(config, predictor, found),
            "checkpoint": f"{checkpoint_folder} (step {about['step']})",
            "weights_sha256": about.get("sha256"),
            "batch_norm": config.batch_norm,
            "saliency": config.saliency,
            "versions": _versions(),
            "git_commit": _git_commit(),
        }

    what = exporter.Export(
        config.method,
        live,
        live_float32,
        config.image_size,
        rule,
        config.export_precision,
        config.formats,
        config.export_largest_batch,
    )
    folder = exporter.export_version(base, config.export_version, what, describe)
    print(f"exported:     {folder} (model card: {folder / 'assets.extra' / 'README.md'})")
    print(
        f"serve:        tensorflow_model_server --rest_api_port=8501 --model_name={config.method} "
        f"--model_base_path={base.resolve()}"
    )
    return 0


def serve(config: Config) -> int:
    """--mode=serve: what was exported, over TensorFlow Serving's REST API, on this machine.

    Published weights are exported first where that has not been done.
    """
    from descargan_tf.export.embedded import server

    base = _export_base(config)
    if config.published and not _is_exported(config):
        export(config)
    # Our exports' rows are independent. Batches bound the memory as well: so many images at a time on each core.
    batches = server.BatchingParameters(config.export_largest_batch, enable_large_batch_splitting=True)
    models = [server.ModelConfig(config.method, base)]
    http = server.HttpSettings(rest_api_enable_cors_support=config.rest_api_enable_cors_support)
    return server.serve(
        server.ServerSettings(models, config.host, config.rest_api_port, config.grpc_port, http, batching=batches)
    )


def publish(config: Config) -> int:
    """--mode=publish: a run's weights, rounded, and what is known of them, for --checkpoint and --init_from."""
    import tensorflow as tf

    folder = Path(config.publish_dir or Path(config_module.PRETRAINED) / Path(config.run_dir).resolve().name)
    pretrained.refuse_existing(folder)
    method, _, about = _restore(dataclasses.replace(config, saliency="none"))
    found, reason = _report_of(config, about["step"])
    if found is None:
        raise UserError(f"weights are published with what was measured of them: {reason}")
    scaling = _checked_data(config, ("validate",), _data_facts(config.trained_dir)["scaling"]).scaling
    images = _load(config, "validate", scaling).images
    stored, facts = pretrained.rounded(method, images, tf.function)
    if len(facts["in_eight_bits"]) < len(method.classifying):
        print(f"eight bits change a probability by more than {pretrained.MAX_CHANGE}: sixteen for all kernels")
    name = f"{folder} (step {about['step']})"
    own_data = "" if config.dataset == "synthetic" else " --data_dir=<root>"
    about = {
        "name": folder.name,
        "method": config.method,
        "image_size": config.image_size,
        "data": "images of one's own" if own_data else "synthetic data",
        "note": config.publish_note,
        "step": about["step"],
        "trained_seconds": about.get("trained_seconds"),
        "machine": about.get("machine"),
        "git_commit": about.get("git_commit"),
        "command": about.get("command")
        or f"python -m descargan_tf.main --flagfile={folder / config_module.RUN_FLAGS}{own_data} --run_dir=runs/again",
        "num_parameters": {key: _num_parameters(network) for key, network in method.networks.items()},
        **facts,
    }
    of_run = [field.name for field in dataclasses.fields(Config) if field.metadata["flag"].of_run]
    left_out = ("figures", "command", "wall_seconds", "machine")
    found = {key: value for key, value in found.items() if key not in left_out}
    found |= {"checkpoint": name, "config": {key: found["config"][key] for key in of_run if key in found["config"]}}
    files = {
        config_module.RUN_FLAGS: config_module.published_flag_lines(config, _settings_of_other_methods(config.method)),
        _DATA_FACTS: (config.trained_dir / _DATA_FACTS).read_text(),
        _REPORT: pages.json_text(found),
    }
    pretrained.write(folder, stored, about, files)
    size = (folder / pretrained.WEIGHTS).stat().st_size / 1e6
    print(f"published:    {folder} ({size:.1f} MB; model card: {folder / pretrained.CARD})")
    return 0


def benchmark(config: Config) -> int:
    """--mode=benchmark: a grid of runs, and the paper's two tables of them."""
    folder = Path(config.run_dir)
    plans = _benchmark_plans(config)
    if config.dry_run:
        return _benchmark_dry_run(config, plans)
    if (folder / config_module.RUN_FLAGS).exists():
        raise UserError(f"--run_dir={folder} is a run: name another folder for a benchmark.")
    # The first seed of every row comes first, so that the tables are soon complete if rough.
    turns = itertools.zip_longest(*(plan.runs for plan in plans))
    runs = [run for turn in turns for run in turn if run is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run_dir={folder} cannot be written: {error.strerror or error}.") from error
    with alone_in(folder) as held:
        if config.benchmark_tables_only:
            _write_benchmark(config, plans, {}, say=True)
            return 0
        _checked_data(plans[0].config)  # drawn once, not by several runs at the same time

        def redraw(_):
            try:
                _write_benchmark(config, plans, work.failures)
            except UserError as error:  # at the end it counts; now the other runs do
                tqdm.write(f"the tables are not up to date: {error}")

        work = Grid(runs, config.benchmark_jobs, redraw, held)
        work.work()
        _write_benchmark(config, plans, work.failures, say=True)
    for run, (how, lines) in work.failures.items():
        print(f"FAILED: {run}: {how}\n{lines}", file=sys.stderr)
    if work.stop_signal is not None:
        print("stopped: run the same command to go on", file=sys.stderr)
        return 128 + work.stop_signal
    return 1 if work.failures else 0


# ---- parts


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One row of a benchmark."""

    name: str
    flagfile: str
    config: Config  # of its first run
    num_parameters: dict
    sees: tuple
    runs: tuple[Run, ...]


def _benchmark_plans(config):
    """What is to be run, checked as far as it can be before anything is.

    Raises:
        UserError: a flagfile cannot be read or is of other data than the first; a run folder was made with other
            settings, or has trained for longer than the budget.
    """
    plans = [_benchmark_plan(config, name, seeds) for name, seeds in config.runs.items()]
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


def _benchmark_plan(config, name, seeds):
    flagfile = config.benchmark_flagfiles.replace("{}", name)
    if not Path(flagfile).is_file():
        raise UserError(f"--benchmark_runs: there is no {flagfile} for {name} (--benchmark_flagfiles says where).")
    given = (f"--flagfile={flagfile}", *shlex.split(config.benchmark_flags), "--max_minutes=0")
    base = config_module.parse(["main", *given])
    if base.method not in METHODS:
        raise UserError(f"{flagfile}: --method={base.method} is not known; known are {', '.join(METHODS)}.")
    kind = METHODS[base.method][0]
    method = _build_method(dataclasses.replace(base, precision="float32"))
    images = method.images_per_round(base.batch_size)
    rounds = config.benchmark_images // images
    if not rounds:
        raise UserError(
            f"--benchmark_images={config.benchmark_images} are less than the {images} of a single round of {name}."
        )
    every = -(-rounds // config.benchmark_validations)
    given += (
        f"--max_steps={rounds}",
        f"--decay_steps={min(base.decay_steps, rounds)}",
        f"--validate_every_steps={every}",
        f"--checkpoint_every_steps={every}",
        f"--log_every_steps={min(base.log_every_steps, every)}",
    )
    saliency = config.saliency if issubclass(kind, Classifier) else "none"
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
    shown = {part: _num_parameters(network) for part, network in method.networks.items()}
    first = config_module.parse(["main", *runs[0].flags, f"--run_dir={runs[0].run_dir}"])
    return _Plan(name, flagfile, first, shown, method.sees, tuple(runs))


def _refuse_other_run(run):
    """As training would, but before any run of the benchmark begins."""
    saved = run.run_dir / config_module.RUN_FLAGS
    if saved.exists():
        config = config_module.parse(["main", *run.flags, f"--run_dir={run.run_dir}"])
        config = config_module.with_precision(config, saved, functools.partial(fast_precision, config.backend))
        config_module.check_run(config, saved, _settings_of_other_methods(config.method))
        planned = config_module.parse(["main", f"--flagfile={saved}"]).max_steps
        if config.decay_steps and planned != run.rounds:
            raise UserError(
                f"{run}: {run.run_dir} was begun for {planned} rounds, at whose end its learning rates are zero; the "
                f"budget is {run.rounds}: give the same --benchmark_images, or name another --run_dir."
            )
    steps = checkpoint.steps(run.run_dir / "checkpoints")
    if steps and steps[-1] > run.rounds:
        raise UserError(
            f"{run}: {run.run_dir} has trained {steps[-1]} rounds and the budget is {run.rounds}: raise "
            "--benchmark_images, or name another --run_dir."
        )


def _benchmark_dry_run(config, plans):
    """What would be done and how long it would take; a few rounds of each row are timed."""
    make_engine = _engine_maker(plans[0].config)
    total = 0.0
    for plan in plans:
        run, left = plan.runs[0], sum(not run.is_finished for run in plan.runs)
        saved = run.run_dir / config_module.RUN_FLAGS
        precise = config_module.with_precision(plan.config, saved, functools.partial(fast_precision, config.backend))
        _, seconds = _time_rounds(precise, make_engine)
        total += seconds * run.rounds * left
        parameters = " + ".join(f"{count:,} {name}" for name, count in plan.num_parameters.items())
        print(
            f"{plan.name}: {len(plan.runs)} runs, {left} to do; {run.rounds} rounds of {run.images_per_round} images, "
            f"{parameters} parameters, {seconds:.3f} s a round, {seconds * run.rounds / 60:.0f} minutes a run\n"
            f"  python -m descargan_tf.main {shlex.join(run.flags)} --run_dir={run.run_dir}",
            flush=True,
        )
    hours = total / config.benchmark_jobs / 3600
    print(f"about {hours:.1f} hours with {config.benchmark_jobs} at a time, if each is as fast as one alone just now")
    return 0


def _write_benchmark(config, plans, failures, say=False):
    """Tables and report of the runs that are finished; what is missing is said in them."""
    folder = Path(config.run_dir)
    rows, found, columns, samples = [], {}, {}, None
    for plan in plans:
        done = [run for run in plan.runs if run.is_finished]
        found[plan.name] = [benchmark_tables.read_run(run.run_dir, run.seed) for run in done]
        saliency = plan.runs[0].saliency
        row = benchmark_report.Row(
            plan.name,
            plan.config.method,
            plan.flagfile,
            None if saliency == "none" else saliency,
            tuple(run.seed for run in done),
            {run.seed: _why_missing(run, failures) for run in plan.runs if run not in done},
            benchmark_tables.budget(found[plan.name]) if done else None,
        )
        rows.append(row)
        if done:
            columns[row.label], samples = figures.read_samples(done[0].run_dir / "figures" / "samples.npz")
    tables = benchmark_tables.make_tables(found, plans[0].config.data_seed)
    # That of |GT| is the same for all; a saliency map's own is beside it.
    thresholds = [run.report["threshold"] for runs in found.values() for run in runs]
    about = {
        "title": f"Benchmark: {folder.name}",
        "command": _benchmark_command(config),
        "threshold": min(thresholds, key=lambda found: "map_value" in found["image_units"]) if thresholds else None,
        "facts": _benchmark_facts(config, plans, found),
    }
    pictures = figures.draw_comparison(folder / "figures", columns, samples) if samples else []
    written = benchmark_report.write(folder, rows, tables, pictures, about)
    if say:
        print("\n".join(map(str, written)))


def _why_missing(run, failures):
    if run in failures:
        how, lines = failures[run]
        return f"failed, {how}: {lines.splitlines()[-1] if lines else 'it said nothing'}"
    return f"not finished: round {run.rounds_done} of {run.rounds}"


def _benchmark_command(config):
    flags = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(Config)
        if field.name.startswith("benchmark_") or field.name in ("run_dir", "saliency")
    }
    del flags["benchmark_tables_only"]
    return "python -m descargan_tf.main --mode=benchmark " + " ".join(
        shlex.quote(f"--{name}={value}") for name, value in flags.items() if value != ""
    )


def _benchmark_facts(config, plans, found):
    """What is to be known of all runs together; `found`: evaluated runs by row."""
    one = plans[0].config
    reports = [run.report for runs in found.values() for run in runs]
    saliency = [
        f"{name}, seed {run.seed}: {run.report['threshold']['image_units']['map_value']:.3f}"
        for name, runs in found.items()
        for run in runs
        if run.report["threshold"]["image_units"].get("map_value") is not None
    ]
    alone = [plan.name for plan in plans if len(plan.sees) < len(CLASS_NAMES)]
    counted = "images of both classes that pass through updates, each batch counted once however many updates use it"
    if alone:
        counted += f"; of {', '.join(alone)} the one class alone that it is trained on"
    splits = {(report["split"]["num_healthy"], report["split"]["num_diseased"]) for report in reports}
    return {
        "Budget of every run": f"at most {config.benchmark_images:,} training images: {counted}",
        "Validations of a run": config.benchmark_validations,
        "Runs at a time": config.benchmark_jobs,
        "Flags for every run": config.benchmark_flags or "none beside the flagfiles",
        "Flagfiles": ", ".join(plan.flagfile for plan in plans),
        "Images": f"{one.dataset}, {one.image_size}x{one.image_size}, {one.num_train} of each class to train on",
        "Test images": ", ".join(f"{healthy} healthy + {diseased} diseased" for healthy, diseased in sorted(splits)),
        "Precision": ", ".join(sorted({report["config"]["precision"] for report in reports})),
        "Thresholds of saliency maps": "; ".join(saliency) or "no saliency maps",
        "Data manifest digest": ", ".join(sorted({report["data_digest"] for report in reports})),
        "Code of the runs": ", ".join(sorted({str(report["git_commit"]) for report in reports})),
        "Machine": ", ".join(sorted({report["machine"] for report in reports})),
        "Versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
    }


def _export_base(config):
    return Path(config.export_dir or Path(config.run_dir) / "export")


def _is_exported(config):
    """Whether the newest version is of the published weights."""
    from descargan_tf.export import card
    from descargan_tf.export.publish import versions

    base = _export_base(config)
    try:
        facts = json.loads((base / str(versions(base)[-1]) / card.JSON).read_text())
    except (OSError, ValueError, IndexError):  # there is none, or it is of another program
        return False
    return facts.get("weights_sha256") == pretrained.describe(config.published)["sha256"]


def _takes_published_thresholds(config):
    """Whether thresholds are those that came with published weights: where the data have no validation split."""
    has_none = (
        not config.num_validate if config.dataset == "synthetic" else not (Path(config.data_dir) / "validate").is_dir()
    )
    return config.published is not None and has_none


def _thresholds(config, answer, scaling):
    """Of the validation split, or as published."""
    if _takes_published_thresholds(config):
        found = json.loads((config.published / _REPORT).read_text())
        if found["saliency"] != config.saliency:
            raise UserError(
                f"--data_dir={config.data_dir} has no validation split, and the threshold of {config.published} is for "
                f"--saliency={found['saliency']}."
            )
        print(f"no validation split: thresholds are those of {config.published}")
        return {name: {**entry, "published_with": str(config.published)} for name, entry in found["threshold"].items()}
    split = _load(config, "validate", scaling)
    thresholds = evaluator.calibrate(split, data_checksum=_digest(config))
    if config.saliency != "none":
        found = evaluator.predict_split(answer, split.images, _PREDICTION_BATCH)
        thresholds = evaluator.calibrate_saliency(thresholds, found, split)
    return thresholds


def _evaluate_command(config):
    given = ["run_dir", "checkpoint", "batch_norm", "saliency"]
    if config.published:  # whose flags may be of other data
        theirs = config_module.read_saved(config.published / config_module.RUN_FLAGS)
        names = ("dataset", "data_dir", "num_train", "num_validate", "num_test", "data_seed")
        given += [name for name in names if getattr(config, name) != getattr(theirs, name)]
    flags = (f"--{name}={getattr(config, name)}" for name in given)
    return f"python -m descargan_tf.main --mode=evaluate {shlex.join(flags)}"


def _data_facts(folder):
    """What training wrote down of its data."""
    try:
        facts = json.loads((folder / _DATA_FACTS).read_text())
        return {**facts, "scaling": Scaling(*facts["scaling"]), "dtype": facts["dtype"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _DATA_FACTS} cannot be read ({error}): it holds the training data's scaling."
        ) from error


def _check_same_data(config, facts):
    """Refuse to go on with a run on other data: its scaling, and what was learned, are the old one's."""
    before = _data_facts(Path(config.run_dir))
    differing = [
        f"{name} is {before.get(name)} there and {now} here" for name, now in facts.items() if before.get(name) != now
    ]
    if differing:
        raise UserError(
            f"the run in --run_dir={config.run_dir} was trained on other data than --data_dir={config.data_dir} holds: "
            f"{'; '.join(differing)}. Give the same data, or name another folder for the run."
        )


def _tensorboard(run_dir):
    """The command that shows a run, with the environment's own program where it is not on the PATH."""
    program = "tensorboard"
    if not shutil.which(program):
        program = os.path.relpath(Path(sys.executable).parent / program)
    return f"{program} --logdir {run_dir}"


def _report_of(config, step):
    """The run's report where it is of this checkpoint, and why there is none."""
    path = config.trained_dir / _REPORT
    evaluate = f"python -m descargan_tf.main --mode=evaluate --run_dir={config.run_dir} --checkpoint={step}"
    again = f"then {'publish' if config.mode == 'publish' else 'export'} again"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        done = "published" if config.mode == "publish" else "exported"
        return None, f"not evaluated when it was {done}. `{evaluate}` does it; {again}."
    if not str(found.get("checkpoint")).endswith(f"(step {step})"):
        return None, f"{path} is of {found.get('checkpoint')}, this is step {step}. `{evaluate}`; {again}."
    for name, used in (("batch_norm_inference", config.batch_norm), ("saliency", config.saliency)):
        if found.get(name, used) != used:
            return None, f"{path} was made with {name} {found[name]}, this with {used}."
    return found, ""


def _measured_again(config, predictor, found):
    """The metrics of an export that computes in another precision than the evaluation did; None where it does not."""
    evaluated = found and found["config"]["precision"]
    if evaluated in (None, config.export_precision):
        return None
    print(f"the evaluation was in {evaluated}: measuring again in {config.export_precision}", flush=True)
    try:
        if not Path(config.data_dir).exists() or _digest(config) != found["data_digest"]:
            raise UserError(f"--data_dir={config.data_dir} does not hold what was evaluated.")
        summary = _checked_data(config, ("test",), _data_facts(config.trained_dir)["scaling"])
        split = _load(config, "test", summary.scaling)
    except UserError as error:
        return {"evaluated": evaluated, "not_measured": str(error)}
    prediction = evaluator.predict_split(predictor, split.images, _PREDICTION_BATCH)
    result = evaluator.evaluate_split(prediction, split, found["threshold"], config.seed)
    before, now = (scores["metrics"]["image_units"] for scores in (found, result))
    pairs = {name: [before[name]["mean"], now[name]["mean"]] for name in now if name in before}
    return {"evaluated": evaluated, "metrics": {name: pair for name, pair in pairs.items() if None not in pair}}


def _synthetic_settings(config):
    return synthetic.SyntheticSettings(
        seed=config.data_seed,
        image_size=config.image_size,
        num_train=config.num_train,
        num_validate=config.num_validate,
        num_test=config.num_test,
    )


def _generate(config):
    settings = _synthetic_settings(config)
    total = 2 * sum(settings.count(split) for split in SPLITS)
    started = time.perf_counter()
    with tqdm(total=total, unit="image", disable=None, desc="generate") as bar:
        manifest = synthetic.generate(config.data_dir, settings, progress=lambda done, _: bar.update(done - bar.n))
    print(f"{config.data_dir}: {total} images, {len(manifest['sha256'])} files, {time.perf_counter() - started:.0f} s")


def _checked_data(config, splits=SPLITS, scaling=None):
    """Generate what is missing, check everything, print what is there; with a run's `scaling`, not one of its own."""
    value_range = f"{scaling.low!r},{scaling.high!r}" if scaling else config.value_range
    if config.dataset == "synthetic":
        value_range = "-1,1"
        data_dir = Path(config.data_dir)
        if not data_dir.exists() or (data_dir.is_dir() and not any(data_dir.iterdir())):
            _generate(config)
        manifest = synthetic.read_manifest(config.data_dir)
        if manifest is None:
            raise UserError(
                f"--data_dir={config.data_dir} exists and was not generated here (no {synthetic.MANIFEST}): "
                "name a folder that does not exist, or pass --dataset=folders to use it as it is."
            )
        synthetic.check_settings(config.data_dir, manifest, _synthetic_settings(config))
    summary = folders.check_data(config.data_dir, config.image_size, value_range, splits)
    print("\n".join(summary.lines()), flush=True)
    return summary


def _load(config, split, scaling):
    return folders.load_split(config.data_dir, split, config.image_size, scaling)


def _digest(config):
    """What names the data: the manifest's bytes, or names and sizes of the files."""
    manifest = Path(config.data_dir) / synthetic.MANIFEST
    if manifest.exists():
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    names = sorted((str(p.relative_to(config.data_dir)), p.stat().st_size) for p in Path(config.data_dir).rglob("*.*"))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _settings_of_other_methods(name):
    """Flags that the method of this name does not use, so that a flagfile it builds on may change them."""
    if name not in METHODS:  # it is refused for that
        return set()
    return set().union(*map(methods.setting_names, METHODS)) - methods.setting_names(name)


def _build_method(config):
    if config.saliency != "none" and not issubclass(METHODS[config.method][0], Classifier):
        classifiers = ", ".join(name for name, (kind, _) in METHODS.items() if issubclass(kind, Classifier))
        raise UserError(
            f"--saliency={config.saliency} is for methods that only classify ({classifiers}); --method={config.method} "
            "has maps of its own: leave it out."
        )
    if config.batch_norm == two_statistics.NAME and METHODS[config.method][0] not in methods.TWO_KINDS:
        raise UserError(f"--batch_norm={config.batch_norm}: --method={config.method} has no such weights.")
    return methods.build(config.method, dataclasses.asdict(config))


def _engine_maker(config):
    """From a Config and training images to an engine of this Config's backend, which is made ready."""
    if config.backend == "jax":
        from descargan_tf.training.jax_step import JaxEngine, keep_compiled_code

        keep_compiled_code(str(Path.home() / _COMPILED_CODE))
        return lambda own, split: JaxEngine(
            lambda: _begun(own)[0], split, precision=own.precision, **_engine_settings(own)
        )
    import tensorflow as tf

    from descargan_tf.training import step

    if config.threads_per_op:  # must come before TensorFlow's first operation
        tf.config.threading.set_intra_op_parallelism_threads(config.threads_per_op)
    leave_activations_unfused()
    strategy = step.all_devices()
    step.refuse_uneven_shares(config.batch_size, strategy)
    return lambda own, split: step.TensorFlowEngine(lambda: _begun(own)[0], strategy, split, **_engine_settings(own))


def _engine_settings(config):
    return {name: getattr(config, name) for name in ("batch_size", "seed", "average_decay", "clip_norm", "flips")}


def _seed(config):
    """For the initial weights."""
    if config.backend == "tensorflow":
        keras.utils.set_random_seed(config.seed)
    else:  # Keras' own function would load TensorFlow where it is installed; its initialisers ask Python
        random.seed(config.seed)


def _compiled_predict(config, method):
    if config.backend == "jax":
        from descargan_tf.training.jax_step import predictor

        return predictor(method)
    import tensorflow as tf

    return tf.function(method.predict)


def _input_gradient(config):
    if config.backend == "jax":
        from descargan_tf.training import jax_step as step
    else:
        from descargan_tf.training import step
    return step.input_gradient


def _restore(config):
    """A method for prediction, with a checkpoint's averaged weights or published ones, and with --saliency its maps.

    Also the folder that they came from, and what is written down there of them.
    """
    method = _build_method(config)
    if config.published:
        folder, about = config.published, pretrained.describe(config.published)
        pretrained.assign(pretrained.weights_of(method), pretrained.load(folder), folder)
    else:
        folder = checkpoint.find(Path(config.run_dir), config.checkpoint)
        arrays, about = checkpoint.load(folder)
        for name, network in method.networks.items():
            stored = "averaged" if name == method.averaged else f"networks/{name}"
            checkpoint.assign(stored, network.weights, arrays, folder)
    if config.saliency != "none":
        method = explained(method, config.saliency, _input_gradient(config))
    return method, folder, about


def _begins_with_published(config):
    return bool(config.init_from) and not checkpoint.steps(Path(config.run_dir) / "checkpoints")


def _begun(config):
    """A new method, and the layers of it that begin anew with --init_from, where all others have published weights."""
    method = _build_method(config)
    if not _begins_with_published(config):
        return method, []
    folder = config_module.published_folder(config.init_from)
    if folder is None:
        raise UserError(f"--init_from={config.init_from} holds no {config_module.PUBLISHED}: name published weights.")
    theirs, weights = config_module.read_saved(folder / config_module.RUN_FLAGS), pretrained.load(folder)
    if theirs.method != config.method:
        raise UserError(f"--init_from={folder} is of --method={theirs.method}, this is {config.method}.")
    if theirs.batch_norm == two_statistics.NAME:
        weights = two_statistics.of_one_kind(weights)
    differing = [
        f"--{name} is {getattr(theirs, name)} there and {getattr(config, name)} here"
        for name in _SHAPING
        if getattr(theirs, name) != getattr(config, name)
    ]
    return method, pretrained.begin_with(pretrained.named_weights(method.networks), weights, differing)


def _training(config, method):
    """How long the run has trained; the best checkpoint is one on the way there."""
    if config.published:
        about = pretrained.describe(config.published)
    else:
        checkpoints = Path(config.run_dir) / "checkpoints"
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


def _num_parameters(network):
    return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)


def _print_networks(method):
    for name, network in method.networks.items():
        print(f"{name}: {_num_parameters(network):,} trainable parameters")


def _dry_run(config, make_engine):
    print(config_module.flag_lines(config), end="")
    for split in SPLITS:
        if config.dataset == "synthetic":
            counts = [_synthetic_settings(config).count(split)] * 2
        else:
            paths = [Path(config.data_dir) / split / name for name in CLASS_NAMES]
            counts = [len(folders.list_images(path)[0]) if path.is_dir() else 0 for path in paths]
        print(
            f"{split}: {HEALTHY}={CLASS_NAMES[HEALTHY]} n={counts[0]}, {DISEASED}={CLASS_NAMES[DISEASED]} n={counts[1]}"
        )
    method, seconds = _time_rounds(config, make_engine)
    _print_networks(method)
    print(f"{seconds:.2f} s a round: {config.max_steps} rounds in about {seconds * config.max_steps / 3600:.1f} hours")
    return 0


def _time_rounds(config, make_engine):
    """A new method, and the seconds that a round of it takes."""
    half = config.batch_size // 2
    shape = (config.batch_size, config.image_size, config.image_size, 1)
    images = np.random.default_rng(config.seed).uniform(-1, 1, shape).astype("float32")
    labels = np.repeat([HEALTHY, DISEASED], half)
    engine = make_engine(config, Split(images, labels, None, list(map(str, range(config.batch_size)))))
    for rounds in (1, 3):  # the first is compilation
        started = time.perf_counter()
        engine.rounds([1.0] * rounds)
    return engine.method, (time.perf_counter() - started) / 3


def _versions():
    names = (keras.backend.backend(), "keras", "numpy", "scipy", "scikit-image", "scikit-learn")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _git_commit():
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a package, or no git: the report says "not recorded"
    return found.stdout.strip()
