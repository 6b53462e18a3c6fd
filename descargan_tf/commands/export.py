"""--mode=export."""

import dataclasses
import shlex
import shutil
from pathlib import Path

from descargan_tf import run_folder, signals
from descargan_tf.config import Config
from descargan_tf.data.dataset import dataset_of
from descargan_tf.errors import UserError
from descargan_tf.evaluation import evaluator
from descargan_tf.names import shown
from descargan_tf.prediction.splits import BATCH_SIZE, predict_split
from descargan_tf.provenance import git_commit, versions

_SERVER = "tensorflow_model_server"  # TensorFlow Serving's program, where it is installed


@signals.leaving("nothing was published")
def export(config: Config) -> int:
    """A version for TensorFlow Serving, verified before it is published."""
    from descargan_tf.export import exporter
    from descargan_tf.export.bytes_input import FileRule
    from descargan_tf.export.formats import check_formats
    from descargan_tf.export.publish import refuse_version

    check_formats(config.formats)
    base = export_base(config)
    refuse_version(base, config.export_version)
    facts = run_folder.data_facts(config.trained_dir)
    rule = FileRule(facts["scaling"], facts["dtype"])
    live, checkpoint_folder, about = run_folder.restore(dataclasses.replace(config, precision=config.export_precision))
    live_float32 = live
    if config.export_precision != "float32":
        live_float32 = run_folder.restore(dataclasses.replace(config, precision="float32")).method
    found, reason = run_folder.report_of(config, about["step"])

    def describe(predictor):
        return {
            "report": found,
            "no_report": reason,
            "other_precision": _measured_again(config, predictor, found),
            "checkpoint": f"{shown(checkpoint_folder)} (step {about['step']})",
            "weights_sha256": about.get("sha256"),
            "batch_norm": config.batch_norm,
            "saliency": config.saliency,
            "preparation": facts.get("preparation"),
            "versions": versions(),
            "git_commit": git_commit(),
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
    chosen = {"checkpoint": config.checkpoint} if config.published else {"run_dir": config.run_dir}
    if config.export_dir:
        chosen["export_dir"] = config.export_dir
    print(f"serve:        {run_folder.command('serve', **chosen)}")
    if shutil.which(_SERVER):
        given = ["--rest_api_port=8501", f"--model_name={config.method}", f"--model_base_path={base.resolve()}"]
        print(f"or:           {shlex.join([_SERVER, *given])}")
    return 0


def export_base(config: Config) -> Path:
    """The folder of the numbered versions."""
    return Path(config.export_dir or Path(config.run_dir) / "export")


def _measured_again(config, predictor, found):
    """The metrics of an export that computes in another precision than the evaluation did; None where it does not."""
    evaluated = found and found["config"]["precision"]
    if evaluated in (None, config.export_precision):
        return None
    print(f"the evaluation was in {evaluated}: measuring again in {config.export_precision}", flush=True)
    data = dataset_of(config)
    try:
        if not Path(config.data_dir).exists():  # synthetic ones would be drawn
            raise UserError(f"--data_dir={config.data_dir} does not exist.")
        summary = data.check(("test",), run_folder.data_facts(config.trained_dir)["scaling"])
        if not data.is_known_as(found["data_digest"], "test"):
            raise UserError(f"--data_dir={config.data_dir} does not hold what was evaluated.")
        split = data.load("test", summary.scaling)
    except UserError as error:
        return {"evaluated": evaluated, "not_measured": str(error)}
    prediction = predict_split(predictor, split.images, BATCH_SIZE)
    result = evaluator.evaluate_split(prediction, split, found["threshold"], config.seed)
    before, now = (scores["metrics"]["image_units"] for scores in (found, result))
    pairs = {name: [before[name]["mean"], now[name]["mean"]] for name in now if name in before}
    return {"evaluated": evaluated, "metrics": {name: pair for name, pair in pairs.items() if None not in pair}}
