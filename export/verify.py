"""Does an exported model answer as the live one did? `python -m export.verify <version folder> ...`

It loads the SavedModel, replays the warm-up requests as TensorFlow Serving will, and compares the answers to those that
the exporter wrote beside it from the live model. It needs TensorFlow and NumPy alone, so that it runs in environments
that this program does not live in; an export runs it in a process of its own before anything is published.
"""

from __future__ import annotations  # Python 3.9 reads this file too

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from descargan_tf import program, surroundings
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import as_text

if __name__ == "__main__":
    surroundings.settle()
with surroundings.loading():
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

from . import warmup

REFERENCE = Path("assets.extra") / "reference.npz"
LARGEST, ROOT_MEAN_SQUARE = "largest", "root mean square"
_RANDOM = (
    "Random",
    "TruncatedNormal",
    "StatelessRandom",
    "StatelessTruncated",
    "StatefulRandom",
    "StatefulUniform",
    "StatefulStandard",
    "StatefulTruncated",
)
_UNSERVABLE = ("PyFunc", "EagerPyFunc", "Xla", *_RANDOM)


def verify(folder: Path) -> dict:
    """Check one version folder.

    Returns:
        `differences`: signature -> output -> difference; `measure`: LARGEST absolute difference or ROOT_MEAN_SQUARE of
        an image; `bound` of it; `num_images`; `num_warmup_requests`; `operations`: the sorted names of every operation
        in the graph.

    Raises:
        UserError: says which answer differs by how much, or what cannot be loaded.
    """
    folder = Path(folder)
    operations = graph_operations(folder)
    unservable = [name for name in operations if name.startswith(_UNSERVABLE)]
    if unservable:
        raise UserError(
            f"{folder}: TensorFlow Serving cannot run, or not repeat, {', '.join(unservable)} in its graph."
        )
    try:
        with as_text(folder) as readable:
            signatures = tf.saved_model.load(str(readable)).signatures
        with np.load(folder / REFERENCE, allow_pickle=False) as stored:
            reference = dict(stored)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an export of this program: {' '.join(str(error).split())}") from error
    requests = warmup.read_requests(folder)
    for request in requests:
        _call(signatures, request.signature, request.inputs, folder)

    bound, measure = float(reference.pop("bound")), str(reference.pop("measure"))
    differences, num_images = {}, 0
    for name in sorted({key.split("/")[0] for key in reference}):
        inputs, expected = ({k[2]: v for k, v in _entries(reference, name, kind)} for kind in ("inputs", "outputs"))
        num_images = len(next(iter(inputs.values())))
        answers = _call(signatures, name, inputs, folder)
        first = _call(signatures, name, {key: value[:1] for key, value in inputs.items()}, folder)
        if set(answers) != set(expected):
            raise UserError(f"{folder}: {name} answers {sorted(answers)}, expected {sorted(expected)}.")
        differences[name] = {}
        for output, wanted in expected.items():
            # By itself an image must get the answer that it gets in a batch.
            found = np.concatenate([_comparable(answers[output]), _comparable(first[output])])
            wanted = np.concatenate([wanted, wanted[:1]])
            if output == "predicted_class":
                undecided = np.abs(expected["disease_probability"] - 0.5) <= bound
                wanted = np.where(np.concatenate([undecided, undecided[:1]]), found, wanted)
            if found.shape != wanted.shape:
                raise UserError(f"{folder}: {name}: {output} is {found.shape}, expected {wanted.shape}.")
            difference = _difference(found, wanted, measure)
            # Pictures have 256 levels, and rounding may fall the other way.
            limit = 255 * bound + 1 if output.endswith("_png_bytes") else bound
            if not difference <= limit:
                raise UserError(
                    f"{folder}: {name}: {output} differs from the live model by {difference:.3g} ({measure}), "
                    f"more than {limit:.3g}."
                )
            differences[name][output] = difference
    return {
        "measure": measure,
        "bound": bound,
        "differences": differences,
        "num_images": num_images,
        "num_warmup_requests": len(requests),
        "operations": operations,
    }


def graph_operations(folder: Path) -> list[str]:
    """The name of every operation in a SavedModel's graph and functions, sorted.

    Raises:
        UserError: there is no SavedModel.
    """
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    except OSError as error:
        raise UserError(f"{folder} holds no SavedModel: {reason(error)}.") from error
    names = set()
    for graph in (meta_graph.graph_def for meta_graph in proto.meta_graphs):
        names |= {node.op for node in graph.node}
        for function in graph.library.function:
            names |= {node.op for node in function.node_def}
            if function.attr["_XlaMustCompile"].b:
                names.add("XlaMustCompile")
    return sorted(names)


def _entries(reference, signature, kind):
    return ((key.split("/"), value) for key, value in reference.items() if key.startswith(f"{signature}/{kind}/"))


def _call(signatures, name, inputs, folder):
    if name not in signatures:
        raise UserError(f"{folder} has no signature {name}, only {', '.join(signatures)}.")
    try:
        return signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    except tf.errors.OpError as error:
        raise UserError(f"{folder}: {name} fails: {' '.join(error.message.split())}") from error


def _difference(found, wanted, measure):
    difference = np.abs(found.astype(np.float64) - wanted)
    if measure == ROOT_MEAN_SQUARE:
        difference = np.sqrt(np.mean(np.square(difference).reshape(len(difference), -1), axis=1))
    return float(difference.max())


def _comparable(answer):
    """Numbers as they are, pictures decoded."""
    if answer.dtype != tf.string:
        return answer.numpy()
    return np.stack([tf.io.decode_png(png).numpy() for png in answer])


def main(argv: list[str] | None = None) -> int:
    """Check folders; the exit status is 0 if all are right."""
    return program.run(lambda: _run(argv))


def _run(argv):
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.verify", description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", help="version folders, such as runs/quickstart/export/1")
    parser.add_argument("--json", action="store_true", help="one JSON object per folder")
    arguments = parser.parse_args(argv)
    failed = 0
    for folder in arguments.folders:
        try:
            result = verify(Path(folder).expanduser())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
            continue
        if arguments.json:
            print(json.dumps(result))
            continue
        largest = max(max(outputs.values()) for name, outputs in result["differences"].items() if "bytes" not in name)
        print(
            f"{folder}: {result['num_images']} images answered as by the live model: difference {largest:.2g} "
            f"({result['measure']}, bound {result['bound']:g}), {result['num_warmup_requests']} warm-up requests "
            f"replayed, TensorFlow {tf.__version__}"
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
