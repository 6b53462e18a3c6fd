"""Published weights: a folder with what a trained method needs to answer, small enough to travel with the program.

pretrained/<name>/
    weights.npz       the weights by readable names: kernels in 16 or 8 bits, all else in float32
    published.json    the checksum of that file, what rounding cost, and where the weights come from
    flags.txt, data.json, report.json      as in the folder of the run
    README.md         the model card, made of the others
"""

import hashlib
import io
import json
import shlex
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from descargan_tf.config import PUBLISHED
from descargan_tf.errors import UserError
from descargan_tf.evaluation import pages, report
from descargan_tf.files import reason
from descargan_tf.measures import HEADLINE, MEASURES, PROTOCOLS, TABLE_1, TABLE_2
from descargan_tf.methods.base import Method
from descargan_tf.prediction.splits import predict_split
from descargan_tf.types import Prediction

WEIGHTS, ABOUT, CARD = "weights.npz", PUBLISHED, "README.md"
# Endings of entries of weights.npz: a name without one is of a whole float32 array, or of an int8 one that has a scale.
_SCALE, _SAME, _HALVES = ".scale", ".same_as", ".float16"
_LARGEST = 6e4  # float16 ends at 65504
MAX_CHANGE = 0.01  # of a probability, for which eight bits are good enough
_NUM_MAPS = 8  # that are compared


def named_weights(networks: Mapping[str, keras.Model], without: tuple[str, ...] = ()) -> dict:
    """Variables by names that tell where they belong and are the same in every process.

    Args:
        networks: a method's.
        without: beginnings of names to leave out.

    Returns:
        "generator/trunk/03_Conv2D/kernel" -> variable; numbers count a model's layers with weights.
    """
    named = {}
    for name, network in networks.items():
        for path, weight in _walk(network, name):
            if path in named:
                raise ValueError(f"two weights are called {path}")
            named[path] = weight
    return {path: weight for path, weight in named.items() if not path.startswith(without)}


def _walk(model, prefix):
    for position, layer in enumerate(layer for layer in model.layers if layer.weights):
        if isinstance(layer, keras.Model):
            yield from _walk(layer, f"{prefix}/{layer.name}")
        else:
            for weight in layer.weights:
                yield f"{prefix}/{position:02d}_{type(layer).__name__}/{weight.name}", weight


def pack(weights: Mapping[str, np.ndarray], in_eight_bits: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Weights as they are stored: kernels rounded, equal arrays once.

    Args:
        weights: float arrays by name.
        in_eight_bits: beginnings of the names whose kernels take one byte a weight, with a scale per output channel,
            the last axis; all others take two. What has one axis, biases and statistics, stays float32.
    """
    stored, first = {}, {}
    for name, weight in weights.items():
        weight = np.asarray(weight, np.float32)
        other = first.setdefault((weight.shape, weight.tobytes()), name)
        if other != name:
            stored[name + _SAME] = np.array(other)
        elif weight.ndim < 2 or not np.abs(weight).max() < _LARGEST:
            stored[name] = weight
        elif name.startswith(in_eight_bits):
            scale = np.abs(weight).max(tuple(range(weight.ndim - 1))) / np.float32(127)
            # Below the smallest normal number a scale has no bits left to be exact in: such a channel is nothing.
            scale = np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))
            stored[name], stored[name + _SCALE] = np.rint(weight / scale).astype(np.int8), scale
        else:
            # All low bytes, then all high ones, which alone can be compressed: a twentieth less than side by side.
            halves = weight.astype("<f2")[..., np.newaxis].view(np.uint8)
            stored[name + _HALVES] = np.ascontiguousarray(np.moveaxis(halves, -1, 0))
    return stored


def unpack(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `pack` was given, up to its rounding."""
    weights = {}
    for name, array in stored.items():
        if name.endswith(_HALVES):
            halves = np.ascontiguousarray(np.moveaxis(array, 0, -1)).view("<f2")[..., 0]
            weights[name.removesuffix(_HALVES)] = halves.astype(np.float32)
        elif not name.endswith((_SCALE, _SAME)):
            weights[name] = array.astype(np.float32) * stored.get(name + _SCALE, np.float32(1))
    same = {name.removesuffix(_SAME): str(other) for name, other in stored.items() if name.endswith(_SAME)}
    return weights | {name: weights[other] for name, other in same.items()}


def weights_of(method: Method) -> dict:
    """The variables of a method that are published, by name."""
    return named_weights(method.networks, method.training_only)


def rounded(method: Method, images: np.ndarray, compiled: Callable) -> tuple[dict[str, np.ndarray], dict]:
    """A method's weights as they are to be stored, and how its answers change by that; it has them afterwards.

    Args:
        method: with the weights to publish.
        images: [N, H, W, 1] of the validation split. All are asked for probabilities, a few for maps.
        compiled: makes a graph of a function, which leaves out what is not asked for; `step.graph`.

    Returns:
        Of `pack`, in eight bits where that changes no probability by more than MAX_CHANGE; "in_eight_bits" and
        "largest_change" of published.json.
    """
    named = weights_of(method)
    exact = {name: keras.ops.convert_to_numpy(variable.value) for name, variable in named.items()}
    few = images[:: -(-len(images) // _NUM_MAPS)]
    asked = [
        (compiled(lambda x: Prediction(None, None, None, method.predict(x).class_probabilities)), images),
        (compiled(lambda x: Prediction(method.predict(x).anomaly_map, None, None, None)), few),
    ]

    def answers():
        found = [predict_split(ask, x, min(_NUM_MAPS, len(x))) for ask, x in asked]
        return found[0].class_probabilities, found[1].anomaly_map

    def change(in_eight_bits):
        stored = pack(exact, in_eight_bits)
        for name, weight in unpack(stored).items():
            named[name].assign(weight)
        pairs = zip(before, answers(), strict=True)
        return stored, [None if old is None else float(np.abs(new - old).max()) for old, new in pairs]

    before, in_eight_bits = answers(), method.classifying
    stored, (of_probabilities, of_maps) = change(in_eight_bits)
    if in_eight_bits and not of_probabilities <= MAX_CHANGE:
        in_eight_bits = ()
        stored, (of_probabilities, of_maps) = change(in_eight_bits)
    changes = {"class_probabilities": of_probabilities, "anomaly_map": of_maps}
    counts = {"num_images": len(images), "num_maps": len(few)}
    return stored, {"in_eight_bits": list(in_eight_bits), "largest_change": {**changes, **counts}}


def refuse_existing(folder: Path) -> None:
    """UserError where a folder is taken."""
    if folder.exists():
        raise UserError(
            f"--publish_dir={folder} exists, and what is published is not written over: name another folder, or remove "
            "this one."
        )


def write(folder: Path, stored: Mapping[str, np.ndarray], about: dict, files: Mapping[str, str]) -> None:
    """Make a folder of published weights, complete or not at all.

    Args:
        folder: must not exist.
        stored: of `pack`.
        about: what published.json is to hold; size and checksum of the weights are added.
        files: text of flags.txt, data.json and report.json by name.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    refuse_existing(folder)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        np.savez_compressed(partial / WEIGHTS, **stored)
        content = (partial / WEIGHTS).read_bytes()
        about = {**about, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, text in {**files, ABOUT: pages.json_text(about)}.items():
            # Names may be no text, for which JSON has the same escape.
            (partial / name).write_bytes(text.encode(errors="backslashreplace"))
        (partial / CARD).write_bytes(card(partial).encode(errors="backslashreplace"))
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"--publish_dir={folder} cannot be written: {reason(error)}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def describe(folder: Path) -> dict:
    """What published.json holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        about = json.loads((folder / ABOUT).read_text())
        return {**about, "sha256": about["sha256"], "bytes": about["bytes"], "step": about["step"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / ABOUT} cannot be read ({error}): fetch {folder} again.") from error


def load(folder: Path) -> dict[str, np.ndarray]:
    """Weights by name, float32.

    Raises:
        UserError: the file is not the one that was published; says what it is instead.
    """
    about, path = describe(folder), folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): fetch {folder} again.") from error
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        found = f"{len(content)} bytes of {about['bytes']}"
        if len(content) == about["bytes"]:
            found = "as long, and other bytes"
        if content.startswith(b"version https://git-lfs"):
            found = "a pointer of Git LFS, not the file itself"
        raise UserError(
            f"{path} is not the file that was published ({found}; its sha256 is not that of {ABOUT}): fetch it again."
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return unpack({name: file[name] for name in file.files})
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a file of weights ({error}).") from error


def assign(named: Mapping, weights: Mapping[str, np.ndarray], folder: Path) -> None:
    """Put published weights into a method's variables, all into all.

    Raises:
        UserError: the method has other networks; names the first weight that does not fit.
    """
    for name in sorted(named.keys() ^ weights.keys()):
        where = "this configuration has it and they do not" if name in named else "they have it alone"
        raise UserError(
            f"the weights in {folder} are not of this configuration: of {name}, {where}. Leave out the flags that "
            "change networks, or take weights of this program's version."
        )
    for name, variable in named.items():
        if tuple(variable.shape) != weights[name].shape:
            raise UserError(
                f"the weights in {folder} are of another size: {name} is {weights[name].shape} there and "
                f"{tuple(variable.shape)} here. Leave out the flags that change networks."
            )
    for name, variable in named.items():
        variable.assign(weights[name])


def begin_with(named: Mapping, weights: Mapping[str, np.ndarray], may_differ: Iterable[str]) -> list[str]:
    """Put published weights into a new method's variables where they fit, for a training on other images.

    Dense layers may have another size, as theirs follows the images'; such a layer, and all behind it in its part of
    the network, which would see what they have never seen, stay as they were initialised. So does what was not
    published.

    Args:
        named: the new method's variables.
        weights: of `load`.
        may_differ: flags with both values, to name where another layer does not fit.

    Returns:
        Names of the layers that stay as they were.

    Raises:
        UserError: another layer has another size.
    """
    fresh = {}
    for name, variable in named.items():
        layer, _, _ = name.rpartition("/")
        part, _, kind = layer.rpartition("/")
        if part in fresh or name not in weights:
            fresh.setdefault(part, []).append(layer)
        elif tuple(variable.shape) != weights[name].shape:
            if "Dense" not in kind:
                raise UserError(
                    f"--init_from: {name} is {weights[name].shape} there and {tuple(variable.shape)} here: "
                    f"{'; '.join(may_differ) or 'the networks differ'}. Give the values of there."
                )
            fresh[part] = [layer]
    for name, variable in named.items():
        layer, _, _ = name.rpartition("/")
        if layer not in fresh.get(layer.rpartition("/")[0], ()):
            variable.assign(weights[name])
    return [layer for layers in fresh.values() for layer in dict.fromkeys(layers)]


def card(folder: Path) -> str:
    """The model card: what the other files of a folder say, for people."""
    about = json.loads((folder / ABOUT).read_text())
    found = json.loads((folder / "report.json").read_text())
    name, split, metrics = about["name"], found["split"], found["metrics"][HEADLINE]
    seconds = about.get("trained_seconds")
    measures = [[f"measure, in {PROTOCOLS[HEADLINE].title}", "value", "95 % interval", "all-zero map"]]
    for key in report.rows_of(TABLE_1 + TABLE_2, metrics):
        entry, zero = metrics[key], found["baseline_zero_map"][HEADLINE][key]
        of_zero = "n/a" if zero["mean"] is None else _cells(key, zero)[0]
        measures.append([MEASURES[key].short_title, *_cells(key, entry), of_zero])
    facts = {
        "Method": about["method"],
        "Images": f"{about['image_size']}x{about['image_size']}, one channel",
        "Data": f"{about['data']}, manifest digest {found['data_digest']}",
        "Rounds": f"{about['step']:,}",
        "Minutes": "not recorded" if seconds is None else f"{seconds / 60:.1f}",
        "Machine": about.get("machine") or "not recorded",
        "Code": about.get("git_commit") or "not recorded",
        "Normalisation at inference": found["batch_norm_inference"],
        **{f"Parameters, {network}": f"{count:,}" for network, count in about["num_parameters"].items()},
        "File": f"{about['bytes'] / 1e6:.1f} MB, sha256 {about['sha256']}",
        "Threshold of the map": _threshold(found["threshold"][HEADLINE]),
    }
    lines = [
        "---",
        "library_name: keras",
        "tags: [anomaly-detection, weak-supervision, medical-imaging]",
        "---",
        "",
        f"# {name}: {about['method']}, {about['data']}, {about['image_size']}x{about['image_size']}",
        "",
        "**Not a medical device.** For research alone.",
        *(["", about["note"]] if about.get("note") else []),
        "",
        "## Use",
        "",
        "```sh",
        *(
            f"python -m descargan_tf.main --mode={mode} {shlex.quote(f'--checkpoint=pretrained/{name}')}{more}"
            for mode, more in (
                ("evaluate", ""),
                ("predict", " --input=<file or folder>"),
                ("export", ""),
                ("serve", ""),
            )
        ),
        "python -m descargan_tf.main --flagfile=configs/own_data.flags "
        f"{shlex.quote(f'--init_from=pretrained/{name}')} ...   # train on",
        "```",
        "",
        "## Measured",
        "",
        f"{split['num_healthy']} healthy and {split['num_diseased']} diseased images of the {split['name']} split, "
        "before the weights were rounded; bootstrap intervals over images, which do not hold the spread between "
        "trainings.",
        "",
        *pages.markdown_table(measures),
        "",
        _rounding(about),
        "",
        "## Origin",
        "",
        "```sh",
        about["command"],
        "```",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in facts.items()),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in report.LIMITS),
    ]
    return "\n".join(lines) + "\n"


def _cells(name, entry):
    if entry["mean"] is None:
        return [entry.get("reason", "not available"), ""]
    interval = "" if entry["ci95"] is None else " to ".join(pages.number(name, value) for value in entry["ci95"])
    return [pages.number(name, entry["mean"]), interval]


def _threshold(entry):
    if entry["value"] is None:
        return "none"
    rule = entry["rule"].replace("|", r"\|")  # in a cell of a table
    return f"{entry['value']:.5f}, the {rule}, over {entry['num_images']} images of the {entry['split']} split"


def _rounding(about):
    changes = about["largest_change"]
    text = "Kernels are stored in 16 bits"
    if about["in_eight_bits"]:
        text += f", those of {', '.join(n.rstrip('/') for n in about['in_eight_bits'])} in 8 with a scale per channel"
    asked = (
        ("class_probabilities", f"probabilities of the {changes['num_images']} images of the validation split"),
        ("anomaly_map", f"pixels of the maps of {changes['num_maps']} of them"),
    )
    said = [
        f"{words} by at most {changes[key]:.1g}" if changes[key] else f"no {words}"
        for key, words in asked
        if changes[key] is not None
    ]
    return f"{text}. That changes {' and '.join(said)}."
