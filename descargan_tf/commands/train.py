"""--mode=train."""

import contextlib
import dataclasses
import json
import os
import zlib
from pathlib import Path

from descargan_tf import flags, program, run_folder, signals
from descargan_tf.config import Config
from descargan_tf.data import memory
from descargan_tf.data.dataset import dataset_of
from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator
from descargan_tf.evaluation.validation import validate
from descargan_tf.hardware import describe_machine, keep_freed_memory
from descargan_tf.methods.base import Method
from descargan_tf.prediction.splits import BATCH_SIZE
from descargan_tf.provenance import git_commit
from descargan_tf.training.backends import engine_maker, seed_initial_weights, time_rounds
from descargan_tf.training.engine import Engine
from descargan_tf.training.loop import LoopSettings, Trainer
from descargan_tf.training.schedule import Schedule
from descargan_tf.training.workers import ALONE, workers_of
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, SPLITS


@signals.leaving("nothing was trained yet")
def train(config: Config) -> int:
    """Start a run, or take it up where it stopped."""
    workers = workers_of(config.strategy) if config.backend == "tensorflow" else ALONE
    if workers.count > 1:
        print(f"process {workers.index} of {workers.count}; process 0 reports and writes", flush=True)
    if workers.is_chief:
        return _train(config, workers)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return _train(config, workers)


def _train(config, workers):
    config = run_folder.check(config)
    if limited := memory.limit_of_process():
        print(limited)
    keep_freed_memory()
    make_engine = engine_maker(config, lambda own: run_folder.begun(own)[0])
    if config.dry_run:
        return _dry_run(config, make_engine)
    if workers.is_chief:
        run_folder.refuse_if_in_use(config)
    # A terminal that is gone, or `| head`, is no reason to lose a training: train.log has it all.
    program.go_on_unheard()
    data = dataset_of(config)
    facts = data.training_facts(data.check(in_memory={"train": 2, "validate": 1}))  # 2: here, and the backend's own
    run_folder.check_same_data(config, data, facts)
    splits = {name: data.load(name, facts["scaling"]) for name in ("train", "validate")}
    if run_folder.begins_with_published(config):  # its refusals must come before there is a run
        print(f"begins with {config.init_from}, all but {', '.join(run_folder.begun(config)[1]) or 'nothing'}")
    threshold = evaluator.calibrate(splits["validate"])["image_units"]["value"]

    def validation(predict, monitor, translate):
        return validate(predict, monitor, translate, splits["validate"], threshold, BATCH_SIZE)

    run_dir = Path(config.run_dir)
    with run_folder.begun_alone(config, data, facts) if workers.is_chief else contextlib.nullcontext():
        seed_initial_weights(config)
        engine = make_engine(config, splits["train"])
        refuse_unlike_processes(engine, config, facts)
        _print_networks(engine.method)
        names = {field.name for field in dataclasses.fields(LoopSettings)}
        settings = LoopSettings(**{name: value for name, value in dataclasses.asdict(config).items() if name in names})
        facts = {"machine": describe_machine(config.backend), "git_commit": git_commit()}
        Trainer(run_dir, engine, settings, validation, facts).run()
    print(f"trained:      {run_dir}\nTensorBoard:  {run_folder.tensorboard_command(run_dir)}")
    print(f"evaluate:     {run_folder.command('evaluate', run_dir=run_dir)}")
    return 0


def refuse_unlike_processes(engine: Engine, config: Config, facts: dict) -> None:
    """UserError where another process of this training has other flags or data, by which their states would part."""
    flags_of_all = {name: getattr(config, name) for name in flags.FIELDS if name not in flags.PATHS}
    word = zlib.crc32(json.dumps([flags_of_all, facts["digest"]], default=str).encode())
    if abs(engine.sum_over_processes([word])[0] / engine.workers.count - word) > 0.25:
        raise UserError(
            "the processes of this training were started with different flags, precisions or data: give all the same "
            "(--precision=auto may differ between machines: name one)."
        )


def _dry_run(config, make_engine):
    print(flags.lines(config), end="")
    data = dataset_of(config)
    for split in SPLITS:
        counts = data.counts(split)
        print(
            f"{split}: {HEALTHY}={CLASS_NAMES[HEALTHY]} n={counts[0]}, {DISEASED}={CLASS_NAMES[DISEASED]} n={counts[1]}"
        )
    schedule = Schedule(config.max_steps, config.warmup_steps, config.decay_steps)
    if schedule.shortened:
        print(schedule.shortened)
    method = run_folder.build_method(config)
    _print_networks(method)
    print("timing a few rounds", flush=True)
    pace = time_rounds(config, method, make_engine)
    print(f"{pace}: {config.max_steps} rounds in about {pace.seconds * config.max_steps / 3600:.1f} hours")
    return 0


def _print_networks(method: Method):
    for name, count in method.num_parameters.items():
        print(f"{name}: {count:,} trainable parameters")
