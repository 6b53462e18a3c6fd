"""--mode=evaluate."""

import dataclasses
import json
import time
from pathlib import Path

from tqdm import tqdm

from descargan_tf import run_folder, signals
from descargan_tf.config import Config
from descargan_tf.data.dataset import dataset_of
from descargan_tf.errors import UserError
from descargan_tf.evaluation import decisions, evaluator, figures, report
from descargan_tf.files import reason
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.hardware import describe_machine, keep_freed_memory
from descargan_tf.prediction.splits import BATCH_SIZE, predict_split
from descargan_tf.provenance import git_commit, versions
from descargan_tf.training.backends import compiled_predict
from descargan_tf.types import CLASS_NAMES, DISEASED, MASK


def evaluate(config: Config) -> int:
    """Tables 1 and 2 on the test split, with figures."""
    started = time.perf_counter()
    run_dir = Path(config.run_dir)
    keep_freed_memory()
    with signals.leaving("no report was written"):
        method, folder, about = run_folder.restore(config)
        splits = ("test",) if _takes_published_thresholds(config) else ("validate", "test")
        data, summary = run_folder.prepare(config, splits, copies=3)  # images, maps, healthy images
        answer = compiled_predict(config, method, weights_stay=True)
        thresholds, points = _chosen(config, method, answer, data, summary.scaling)
        test = data.load("test", summary.scaling)
        prediction = _predicted(answer, test.images, "test", min(BATCH_SIZE, len(test.images)))
        result = evaluator.evaluate_split(prediction, test, thresholds, config.seed, operating_points=points)
    # Whoever ends it now has waited for all but these seconds.
    with signals.leaving("the report is written"), signals.held():
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
                    "versions": versions(),
                    "git_commit": git_commit(),
                    "checkpoint": f"{folder} (step {about['step']})",
                    "checkpoint_step": about["step"],
                    "data_digest": data.digest("test"),
                    "batch_norm_inference": config.batch_norm or "no setting of this method",
                    "saliency": config.saliency,
                    "num_parameters": method.num_parameters,
                    "training": run_folder.training_facts(config, method),
                    "machine": describe_machine(config.backend),
                    "command": _command(config),
                    "wall_seconds": time.perf_counter() - started,
                },
            )
        except OSError as error:
            raise UserError(f"--run_dir={run_dir} cannot be written: {reason(error)}: {error.filename}.") from error
    print(report.format_table(result))
    print(f"\nreport:       {run_dir / 'report.html'} (also report.md, report.json, per_image.csv)")
    print(f"figures:      {run_dir / 'figures'}\nTensorBoard:  {run_folder.tensorboard_command(run_dir)}")
    chosen = {} if config.published else {"run_dir": run_dir}
    chosen["checkpoint"] = config.checkpoint
    samples = Path(config.data_dir) / "test" / CLASS_NAMES[DISEASED]
    if samples.is_dir():
        print(f"predict:      {run_folder.command('predict', **chosen, input=samples)}")
    print(f"export:       {run_folder.command('export', **chosen)}")
    return 0


def _takes_published_thresholds(config):
    """Whether thresholds are those that came with published weights: where the data have no validation split."""
    return config.published is not None and not dataset_of(config).has_split("validate")


def _chosen(config, method, answer, data, scaling):
    """Thresholds of maps, of the validation split or as published, and operating points of the validation split."""
    if _takes_published_thresholds(config):
        found = json.loads((config.published / run_folder.REPORT).read_text())
        if found["saliency"] != config.saliency:
            raise UserError(
                f"--data_dir={config.data_dir} has no validation split, and the threshold of {config.published} is for "
                f"--saliency={found['saliency']}."
            )
        print(f"no validation split: thresholds are those of {config.published}")
        thresholds = {
            name: {**entry, "published_with": str(config.published)} for name, entry in found["threshold"].items()
        }
        return thresholds, decisions.unchosen(decisions.NO_VALIDATION)
    split, checksum = data.load("validate", scaling), data.digest("validate")
    needs_maps = config.saliency != "none" or split.ground_truth_kind == MASK
    if not needs_maps:
        answer = compiled_predict(config, method, without_maps=True)  # few images, a part of the networks
    prediction = _predicted(answer, split.images, "validate")
    thresholds = evaluator.calibrate(split, data_checksum=checksum, prediction=prediction if needs_maps else None)
    return thresholds, decisions.choose(prediction, split.labels, data_checksum=checksum)


def _predicted(answer, images, name, batch_size=BATCH_SIZE):
    with tqdm(total=len(images), unit="image", disable=None, desc=f"predict, {name}") as bar:
        return predict_split(answer, images, batch_size, lambda done, _: bar.update(done - bar.n))


def _command(config):
    given = ["run_dir", "checkpoint", "batch_norm", "saliency"]
    theirs = run_folder.read_saved(config.trained_dir / RUN_FLAGS)
    if config.ground_truth != theirs.ground_truth:
        given.append("ground_truth")
    if config.published:  # whose flags may be of other data
        names = ("dataset", "data_dir", "num_train", "num_validate", "num_test", "data_seed")
        given += [name for name in names if getattr(config, name) != getattr(theirs, name)]
    values = {name: getattr(config, name) for name in given}
    return run_folder.command("evaluate", **{name: value for name, value in values.items() if value is not None})
