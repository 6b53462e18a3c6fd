"""--mode=publish."""

import dataclasses
import shlex
from pathlib import Path

from descargan_tf import pretrained, run_folder, signals
from descargan_tf.config import PRETRAINED, Config
from descargan_tf.errors import UserError
from descargan_tf.evaluation import pages
from descargan_tf.flags import RUN_FLAGS
from descargan_tf.types import DRAWN

_DATA = {"synthetic": "synthetic data", "synthetic_chest": "drawn radiographs"}


@signals.leaving("nothing was published")
def publish(config: Config) -> int:
    """A run's weights, rounded, and what is known of them, for --checkpoint and --init_from."""
    from descargan_tf.training.step import graph

    folder = Path(config.publish_dir or Path(PRETRAINED) / Path(config.run_dir).resolve().name)
    pretrained.refuse_existing(folder)
    method, _, about = run_folder.restore(dataclasses.replace(config, saliency="none"))
    found, reason = run_folder.report_of(config, about["step"])
    if found is None:
        raise UserError(f"weights are published with what was measured of them: {reason}")
    data, summary = run_folder.prepare(config, ("validate",))
    stored, facts = pretrained.rounded(method, data.load("validate", summary.scaling).images, graph)
    if len(facts["in_eight_bits"]) < len(method.classifying):
        print(f"eight bits change a probability by more than {pretrained.MAX_CHANGE}: sixteen for all kernels")
    files = {
        RUN_FLAGS: run_folder.published_lines(config),
        run_folder.DATA_FACTS: pages.json_text(_data_facts(config)),
        run_folder.REPORT: pages.json_text(_report(found, f"{folder} (step {about['step']})")),
    }
    pretrained.write(folder, stored, {**_about(config, folder, method, about), **facts}, files)
    size = (folder / pretrained.WEIGHTS).stat().st_size / 1e6
    print(f"published:    {folder} ({size:.1f} MB; model card: {folder / pretrained.CARD})")
    print(f"serve:        {run_folder.command('serve', checkpoint=folder)}")
    return 0


def _about(config, folder, method, about):
    """Where the weights come from."""
    flagfile = shlex.quote(f"--flagfile={folder / RUN_FLAGS}")
    own_data = "" if config.dataset in DRAWN else " --data_dir=<root>"
    return {
        "name": folder.name,
        "method": config.method,
        "image_size": config.image_size,
        "data": _DATA.get(config.dataset, "images of one's own"),
        "note": config.publish_note,
        "step": about["step"],
        "trained_seconds": about.get("trained_seconds"),
        "machine": about.get("machine"),
        "git_commit": about.get("git_commit"),
        "command": about.get("command") or f"python -m descargan_tf.main {flagfile}{own_data} --run_dir=runs/again",
        "num_parameters": method.num_parameters,
    }


def _data_facts(config):
    """What prediction must know of the data; the names of its files are their owner's."""
    facts = run_folder.data_facts(config.trained_dir)
    return {name: value for name, value in facts.items() if name != "files"}


def _report(found, name):
    """The run's report without the places of this machine."""
    of_run = [field.name for field in dataclasses.fields(Config) if field.metadata["flag"].of_run]
    left_out = ("figures", "command", "wall_seconds", "machine")
    kept = {key: value for key, value in found.items() if key not in left_out}
    config = {key: value for key, value in found["config"].items() if key in of_run}
    return {**kept, "checkpoint": name, "config": config}
