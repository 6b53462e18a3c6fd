"""--mode=check_data."""

import os
from pathlib import Path

from tqdm import tqdm

from descargan_tf import signals
from descargan_tf.config import Config
from descargan_tf.data import generation
from descargan_tf.data.dataset import dataset_of
from descargan_tf.data.examination import examine
from descargan_tf.errors import UserError
from descargan_tf.evaluation.data_report import data_page
from descargan_tf.files import reason, write_atomically

REPORT = "check_report.html"
_FOUND = 1  # exit status


@signals.leaving("not everything was checked")
def check_data(config: Config) -> int:
    """Read everything, say what is there and what is suspicious; 1 where something is."""
    target = _report_path(config)
    data = dataset_of(config)
    summary = data.check(every_image=True)
    manifest = _manifest(config, data)
    if manifest:
        generation.verify_checksums(config.data_dir, manifest)
        print(f"all {len(manifest['sha256'])} files are as they were generated")
    counts = {(c.split, c.label): c.num_images for c in summary.classes}
    with tqdm(total=sum(counts.values()), unit="image", disable=None, desc="compare") as bar:
        examination = examine(data.pictures(summary), counts, bar.update)
    near = list(examination.findings())
    for finding in near:
        print(f"warning: {finding}")
    findings = [*summary.findings, *near]
    notes = [warning for warning in summary.warnings if warning not in summary.findings]
    unknown = data.num_without_patient()
    if unknown:
        notes.append(
            f"patients are not known of {unknown} image{'s' if unknown > 1 else ''}: whether one is in two splits was "
            "not checked there"
        )
        print(f"note: {notes[-1]}")
    _write(target, data_page(summary, examination, findings, notes), asked=bool(config.output_dir))
    print(f"{len(findings)} finding{'s' if len(findings) > 1 else ''}" if findings else "nothing suspicious was found")
    return _FOUND if findings else 0


def _manifest(config, data):
    try:
        return generation.read_manifest(config.data_dir)
    except UserError:
        if data.is_synthetic:
            raise
        return None  # a file of that name that is the user's own


def _report_path(config):
    """Beside the data and not within them, where it would be a file that nobody asked for."""
    root = Path(os.path.abspath(config.data_dir))
    if not config.output_dir:
        return root.with_name(f"{root.name}_{REPORT}") if root.name else None
    folder = Path(os.path.abspath(config.output_dir))
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--output_dir={config.output_dir} lies within --data_dir, where nothing is written: name another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={config.output_dir} cannot be written: {reason(error)}.") from error
    return folder / REPORT


def _write(path, page, asked):
    try:
        if path is None:
            raise UserError("--data_dir is the root of the file system")
        write_atomically(path, page.encode("utf-8", "replace"))
        print(f"report: {path} (it holds pictures of the data)")
    except UserError as error:
        if asked:
            raise
        print(f"note: no report was written ({error}); name a folder for it with --output_dir")
