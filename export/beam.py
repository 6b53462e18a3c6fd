"""Predict an archive of image files on any Apache Beam runner: python -m export.beam --export_dir=... --input=...

It writes what `export.client` writes, from an exported version and without a server; further options are Beam's.
"""

import argparse
import importlib.util
import logging
import os
import re
import signal
import sys
from pathlib import Path

from descargan_tf import program, signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import one_line
from descargan_tf.prediction.table import TABLE, refuse_folder_of_inputs

from .answers import tell_what_is_passed_over


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 some files failed, 2 bad input or no model, 128 + n stopped by signal n.
    """
    return program.run(lambda: _run(argv))


@signals.leaving("the tables were not written")
def _run(argv):
    arguments, beam_options = _parser().parse_known_args(argv)
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("apache-beam is not installed: pip install -r requirements-beam.txt")
    for name in (None, "apache_beam.runners.common"):
        logging.getLogger(name).addFilter(_is_news)
    import apache_beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    from descargan_tf.export import pipeline as archive

    # Beam's DirectRunner would first fetch a program of Beam's from the network; this is what it does without.
    runner = "FnApiRunner" if arguments.runner == "DirectRunner" else arguments.runner
    options = PipelineOptions(beam_options, runner=runner)
    FileSystems.set_options(options)
    # Workers have working folders of their own.
    source, export_dir, output_dir = (
        os.path.abspath(os.path.expanduser(path)) if archive.is_local(path) else path
        for path in (arguments.input, arguments.export_dir, arguments.output_dir)
    )
    version = archive.find_version(export_dir)
    refuse_folder_of_inputs([Path(file.path) for file in archive.list_files(source)], output_dir)
    if archive.is_local(output_dir):
        try:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir={output_dir} cannot be written: {reason(error)}") from error
    if os.path.isdir(source):
        tell_what_is_passed_over(Path(source))
    try:
        pipeline = apache_beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner={arguments.runner}: {error}") from error
    try:
        with pipeline:
            archive.predict_archive(pipeline, source, version, output_dir)
    except (RuntimeError, UserError) as error:
        raise _raised_by_worker(error) or error from None
    rows, failed = (archive.read_table(output_dir, table) for table in (TABLE, archive.FAILURES))
    print(f"{len(rows)} of {len(rows) + len(failed)} images done: {os.path.join(arguments.output_dir, TABLE)}")
    for name, message in failed:
        print(f"not done: {one_line(name)}: {one_line(message)}", file=sys.stderr)
    return 1 if failed else 0


def _is_news(record):
    """Not what libraries say of themselves, nor the traceback of what ends in a line of this program."""
    own = record.exc_info and isinstance(record.exc_info[1], (UserError, signals.Stopped))
    return not own and (record.name != "root" or record.levelno >= logging.ERROR)


def _raised_by_worker(error):
    """A worker's own error; Beam hands on a traceback's text, or the same error with words of its own behind."""
    text = f"{type(error).__name__}: {error}"
    found = re.findall(r"(UserError|Stopped): (.*?)(?: \[while running|$)", text, re.MULTILINE)
    if not found:
        return None
    kind, words = found[-1]
    return UserError(words) if kind == "UserError" else signals.Stopped(signal.Signals[words.partition(":")[0]])


def _parser():
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.beam",
        description="Predict an archive of PNG and JPEG files by an exported model on an Apache Beam runner; write "
        "maps, overlays, predictions.csv, and failures.csv, which names the files that cannot be predicted.",
        epilog="Further options are Beam's, such as --direct_num_workers or --flink_master. Each path is a local one, "
        "which all workers must see, or a URL of a file system that Beam knows (gs://, s3://, hdfs://).",
        allow_abbrev=False,
    )
    parser.add_argument("--export_dir", required=True, help="what --mode=export wrote; the newest version is taken")
    parser.add_argument(
        "--input", required=True, help="a file, a folder (a URL ends in /), or a pattern: 'scans/**.png'"
    )
    parser.add_argument("--output_dir", default="predictions", help="made if need be (default: %(default)s)")
    parser.add_argument("--runner", default="DirectRunner", help="one of Beam's (default: %(default)s, this machine)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
