"""What a model says of itself: `assets.extra/model.json` for programs, `assets.extra/README.md` for people."""

import json
from pathlib import Path

from descargan_tf.evaluation.evaluator import map_threshold
from descargan_tf.evaluation.report import rows_of
from descargan_tf.measures import HEADLINE, MEASURES, PROTOCOLS, TABLE_1, TABLE_2
from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, SCALE
from descargan_tf.types import CLASS_NAMES, DECISION, DISEASED

from .bytes_input import MAX_PIXELS, FileRule
from .saved_model import BYTES_SIGNATURE, FLOAT_SIGNATURE

JSON, CARD = Path("assets.extra") / "model.json", Path("assets.extra") / "README.md"
SCHEMA = 1
_OUTPUTS = {
    "anomaly_map": "healthy_image - image, signed, in the image's units",
    "healthy_image": "the image as it would look healthy, in [-1, 1]",
    "disease_probability": "of the classifier, 0 to 1; not calibrated",
    "anomaly_score": "mean of |anomaly_map|; larger is more diseased",
    "predicted_class": f"a key of labels: {DISEASED} where disease_probability > {DECISION}",
    "overlay_png_bytes": "anomaly_map in colour over the image",
    "anomaly_map_png_bytes": "anomaly_map in colour on white",
}
_SALIENCY = {"anomaly_map": "how strongly a pixel speaks for disease, 0 to 1"}  # of a method without healthy images
_LIMITS = (
    "Research software. It is not a medical device and must not guide the care of a patient.",
    "A map shows what this method would change to make an image look healthy; that need not be the disease.",
    "It knows images like those it was trained on. For any other it answers just as confidently, and wrongly.",
    "Intervals hold the spread over test images, not between training runs, sites or devices.",
)


def description(
    method: str,
    image_size: int,
    rule: FileRule,
    precision: str,
    verification: dict,
    report: dict | None,
    no_report: str = "",
    **facts,
) -> dict:
    """Everything that `model.json` holds, plain Python.

    Args:
        method: its name.
        image_size: pixels a side.
        rule: how files become images.
        precision: of the convolutions.
        verification: what `verify` returned.
        report: the run's report.json, if it is of this checkpoint; thresholds and metrics are taken from there.
        no_report: why there is none.
        **facts: checkpoint, versions, git_commit and the like, carried along.
    """
    report = report or {}
    outputs = verification["differences"][BYTES_SIGNATURE]
    has_twin = "healthy_image" in outputs
    return {
        "schema": SCHEMA,
        "method": method,
        "labels": {str(label): name for label, name in enumerate(CLASS_NAMES)},
        "image": {"shape": [image_size, image_size, 1], "range": [-1, 1], "not_finite": "is taken as 0"},
        "files": {
            "training_dtype": rule.dtype,
            "training_range": list(rule.scaling),
            "range_becomes": [-1, 1],
            "max_pixels": MAX_PIXELS,
            "other_sizes": "are resized to the image's shape, bilinear with antialiasing, without keeping proportions",
        },
        "outputs": {name: _OUTPUTS[name] if has_twin else _SALIENCY.get(name, _OUTPUTS[name]) for name in outputs},
        "colours": {"scale": SCALE, "positive": list(POSITIVE_COLOUR), "negative": list(NEGATIVE_COLOUR)},
        "precision": precision,
        "thresholds": report.get("threshold"),
        "metrics": report.get("metrics"),
        "evaluated_on": report.get("split"),
        "data_digest": report.get("data_digest"),
        "not_evaluated": None if report else no_report,
        "verification": verification,
        **facts,
    }


def write_card(folder: Path, facts: dict) -> None:
    """Write both files into a SavedModel's folder."""
    (folder / JSON).parent.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    (folder / CARD).write_bytes(_markdown(facts).encode(errors="backslashreplace"))  # names may be no text


def _markdown(facts):
    size = facts["image"]["shape"][0]
    low, high = facts["files"]["training_range"]
    head = ["---", "library_name: keras", "tags: [anomaly-detection, weak-supervision, medical-imaging]", "---"]
    lines = [*head, "", f"# {facts['method']}: anomaly maps from image-level labels", ""]
    lines += ["**Not a medical device.** For research alone.", "", "## Use", ""]
    lines += [
        f"`{FLOAT_SIGNATURE}` takes `image`, float32 [B, {size}, {size}, 1] in [-1, 1]; `{BYTES_SIGNATURE}` takes "
        "`image_bytes`, PNG or JPEG files of 8 or 16 bits with one gray channel. Both answer:",
        "",
        *(f"- `{name}`: {meaning}" for name, meaning in facts["outputs"].items()),
        "",
        f"Labels: {', '.join(f'{key} {name}' for key, name in facts['labels'].items())}. Colours are full from "
        f"|map| = {facts['colours']['scale']:g} on, whatever the image: red where the healthy image is brighter, blue "
        "where it is darker.",
        "",
        f"The training files held {facts['files']['training_dtype']} values; {low:g} to {high:g} became -1 to 1. A "
        "file of other bits is read with its full range in place of theirs. Values outside are refused. Other sizes "
        f"are stretched to {size}x{size}; more than {facts['files']['max_pixels']:,} pixels are refused, undecoded.",
        "",
    ]
    if made := facts.get("preparation"):
        lines += [
            f"Training images were prepared from raw files (`--source={made['source']} --fit={made['fit']}`), which "
            "the export does not do: a whole radiograph or slice is to be read, windowed and fitted before it is sent, "
            "as `--mode=prepare` does it. `--mode=predict` on the run takes raw files as they are.",
            "",
        ]
    lines += ["## Data and measures", "", *_measures(facts), ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in _LIMITS), ""]
    lines += ["## Origin", "", "| what | value |", "|---|---|"]
    for key in ("precision", "checkpoint", "batch_norm", "data_digest", "git_commit"):
        lines.append(f"| {key.replace('_', ' ')} | {facts.get(key) or 'not recorded'} |")
    lines += [f"| {name} | {version} |" for name, version in (facts.get("versions") or {}).items()]
    verification = facts["verification"]
    numbers = (outputs.items() for outputs in verification["differences"].values())
    largest = max(value for items in numbers for name, value in items if not name.endswith("_bytes"))
    lines += [
        "",
        f"Reloaded in a process of its own, it answered {verification['num_images']} drawn images as the live model in "
        f"float32: difference {largest:.1e} ({verification['measure']}), bound {verification['bound']:g}. "
        "`python -m descargan_tf.export.verify <this folder's parent>` repeats that.",
    ]
    return "\n".join(lines) + "\n"


def _measures(facts):
    if facts["metrics"] is None:
        return [f"No metrics and no thresholds: {facts['not_evaluated']}"]
    split, metrics = facts["evaluated_on"], facts["metrics"][HEADLINE]
    lines = [
        f"{split['num_healthy']} healthy and {split['num_diseased']} diseased images of the {split['name']} split; "
        "95 % bootstrap intervals over images.",
        "",
        f"| measure, in {PROTOCOLS[HEADLINE].title} | value | interval |",
        "|---|---:|---:|",
    ]
    for name in rows_of(TABLE_1 + TABLE_2, metrics):
        entry = metrics[name]
        value = entry.get("reason", "not available") if entry["mean"] is None else f"{entry['mean']:.4g}"
        interval = "" if entry["ci95"] is None else "{:.4g} to {:.4g}".format(*entry["ci95"])
        lines.append(f"| {MEASURES[name].short_title} | {value} | {interval} |")
    threshold = facts["thresholds"][HEADLINE]
    value = map_threshold(threshold)
    if value is None:
        lines += ["", f"No threshold of |map|: {threshold.get('reason', 'not available')}."]
    else:
        lines += [
            "",
            f"A pixel is called anomalous where |map| > {value:.4f}: "
            f"{threshold['rule'] if threshold.get('map_value') is None else threshold['map_rule']}, over "
            f"{threshold['num_images']} images of the {threshold['split']} split.",
        ]
    return lines + _other_precision(facts)


def _other_precision(facts):
    other = facts.get("other_precision")
    if other is None:
        return []
    if "not_measured" in other:
        return [
            "",
            f"Those are in {other['evaluated']}; this export computes in {facts['precision']}, not measured: "
            f"{other['not_measured']}",
        ]
    lines = [
        "",
        f"Those are in {other['evaluated']}. This export computes in {facts['precision']}; on the same images:",
        "",
    ]
    lines += ["| measure | evaluated | this export |", "|---|---:|---:|"]
    for name in dict.fromkeys(TABLE_1 + TABLE_2):
        if name in other["metrics"]:
            evaluated, exported = other["metrics"][name]
            lines.append(f"| {MEASURES[name].short_title} | {evaluated:.4g} | {exported:.4g} |")
    return lines
