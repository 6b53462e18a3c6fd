"""One export from beginning to end: write, verify in a process of its own, describe, publish."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from descargan_tf import errors
from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method

from .bytes_input import FileRule
from .card import description, write_card
from .formats import FOLDER, write_formats
from .publish import publish
from .reference import drawn_images, encode, write_reference
from .saved_model import BYTES_SIGNATURE, FLOAT_SIGNATURE, Predictor, write_saved_model
from .warmup import Request, write_requests


class Export(NamedTuple):
    """What is to be exported, and how."""

    method: str  # its name, and that of the model in warm-up requests
    live: Method  # with the weights to export, in the precision to export
    live_float32: Method  # the same in float32, which the export is compared with
    image_size: int
    rule: FileRule
    precision: str
    formats: tuple[str, ...] = ()  # keys of `formats.FORMATS`
    largest_batch: int = 4  # of the warm-up requests


def export_version(base: Path, version: int, export: Export, describe: Callable[[Predictor], dict]) -> Path:
    """Write a version that answers as the live model does, or none.

    Args:
        base: holds the versions.
        version: a free number, or 0 for the next.
        export: what to export.
        describe: called with the predictor that is exported; gives `card.description` what it does not know itself.

    Returns:
        The version's folder.

    Raises:
        UserError: the reloaded model, or one in another format, does not answer as the live one; or see `publish`.
    """

    def fill(folder):
        predictor = Predictor(export.live, export.image_size)
        print(f"writing the SavedModel ({predictor.num_folded} batch normalisations folded)", flush=True)
        write_saved_model(folder, predictor, export.rule)
        write_requests(folder, warm_up_requests(export))
        write_reference(folder, export.live_float32, export.image_size, export.rule, export.precision)
        print("reloading it in a process of its own: warm-up requests, comparison with the live model", flush=True)
        verification = verify_apart(folder)
        if export.formats:
            print(f"writing {', '.join(export.formats)}", flush=True)
        formats = write_formats(export.formats, folder / FOLDER, predictor, export.live_float32)
        facts = describe(predictor)
        write_card(
            folder,
            description(
                export.method,
                export.image_size,
                export.rule,
                export.precision,
                verification,
                **facts,
                folded_normalisations=predictor.num_folded,
                formats=formats,
            ),
        )

    return publish(base, version, fill)


def warm_up_requests(export: Export) -> list[Request]:
    """Both signatures, with one image and with the largest batch."""
    images = drawn_images(export.largest_batch, export.image_size)
    files, _ = encode(images, export.rule)
    requests = []
    for count in sorted({1, export.largest_batch}):
        requests.append(Request(export.method, FLOAT_SIGNATURE, {"image": images[:count]}))
        requests.append(Request(export.method, BYTES_SIGNATURE, {"image_bytes": files[:count]}))
    return requests


def verify_apart(folder: Path) -> dict:
    """Run `verify` in a process that knows nothing of this one.

    Raises:
        UserError: it found a difference, or ended otherwise than it should.
    """
    root = str(Path(errors.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "descargan_tf.export.verify", "--json", str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        last = last.removeprefix("error: ").removeprefix(f"{folder}: ")
        raise UserError(f"the export does not answer as the live model and was not published: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])
