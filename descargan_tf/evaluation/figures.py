"""Pictures of a report.

Colour scales are constants, the same for every row, image and run: scaling each map by its own extremes makes healthy
images look sick. Samples are the first of the split in its order, never picked.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from descargan_tf.errors import UserError
from descargan_tf.evaluation import decisions, evaluator, metrics
from descargan_tf.files import write_atomically
from descargan_tf.names import shown
from descargan_tf.prediction.overlay import SCALE
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, MASK, Prediction, Split

_SIGNED_MAP = "RdBu_r"  # the two hues of the overlays
_DPI = 110
_GAP, _MARGIN = 0.09, 0.8  # inches, between panels and around all of them, where it is cut to what is there
# A matplotlibrc in the working directory, or a notebook's style, is none of a report's.
_in_one_style = matplotlib.style.context("default", after_reset=True)
_OUTLINED = "outlined"  # an image with its mask
_OUTLINE_COLOUR = "#ffd400"
_OF_OUTLINES = "The ground truth is a mask, drawn as its outline; an image without one has no mask, or an empty one."


class FigureFile(NamedTuple):
    """A picture on disk and the words that belong to it."""

    path: Path
    title: str
    caption: str
    alt: str


@_in_one_style
def draw_all(folder, prediction, split, threshold=None, num_samples=4):
    """Draw every figure that the split and the method allow into a folder; a list of FigureFile."""
    folder = Path(folder)
    drawn = (
        figure_samples(folder / "samples.png", prediction, split, num_samples),
        figure_healthy(folder / "healthy.png", prediction, split, num_samples),
        figure_roc(folder / "roc.png", prediction, split, threshold),
        figure_calibration(folder / "calibration.png", prediction, split),
        figure_dataset(folder / "dataset.png", split),
    )
    return [figure for figure in drawn if figure is not None]


def figure_dataset(path, split):
    """Draw the first healthy image, the first diseased image and its ground truth (Figure 4); None without images."""
    healthy, diseased = (_first(split, label, 1) for label in (HEALTHY, DISEASED))
    panels = [("A healthy image", _plane(split.images, index), "image") for index in healthy]
    panels += [("A diseased image", _plane(split.images, index), "image") for index in diseased]
    if _is_mask(split):
        panels += [("Ground truth, outlined", _plane(split.images, index), "image") for index in diseased]
    elif split.ground_truth is not None:
        panels += [("Ground truth, signed", _plane(split.ground_truth, index), "signed") for index in diseased]
    if not panels:
        return None
    figure, axes = _panels(1, len(panels), inches=2.5)
    for axis, (title, values, kind) in zip(axes[0], panels, strict=True):
        artist = _show(axis, values, kind, title)
        if "outlined" in title:
            _outline(axis, _plane(split.ground_truth, diseased[0]))
        _bar(figure, artist, [axis], "horizontal", ticks=[-1, 0, 1])
    caption = "The first healthy and the first diseased image of the split; they are not a pair."
    if _is_mask(split):
        caption += " Ground truth: a mask, drawn as its outline."
    elif split.ground_truth is not None:
        caption += " Ground truth: healthy counterpart - diseased image, in image units."
    return _save(
        figure, path, "The data", caption, "Panels side by side: " + ", ".join(t.lower() for t, _, _ in panels)
    )


def figure_samples(path, prediction, split, num_samples=4):
    """Draw the first diseased images with output, |GT|, |d| and both signed maps (Figure 5); None without a map."""
    rows = _first(split, DISEASED, num_samples)
    if prediction.anomaly_map is None or not rows:
        return None
    if prediction.healthy_image is None:
        return _saliency_grid(path, split, rows, prediction.anomaly_map, "Diseased images")
    columns = [
        ("Input $r_p$", split.images, "image"),
        ("Output $a_h$", prediction.healthy_image, "image"),
        *_ground_truth_columns(split),
        ("Difference $|d|$", prediction.anomaly_map, "magnitude"),
        *([] if _is_mask(split) else [("$GT$, signed", split.ground_truth, "signed")]),
        ("$d$, signed", prediction.anomaly_map, "signed"),
    ]
    shown = "|d|" if split.ground_truth is None or _is_mask(split) else "|d| and |GT|"
    caption = (
        f"The first {len(rows)} diseased images of the split in its order, not picked. d = output - input; {shown} in "
        f"[0, {SCALE:g}], signed maps in [-{SCALE:g}, {SCALE:g}] (red: healthy is brighter), the same scale in every "
        "row and every run, no scaling per image."
    )
    if split.ground_truth is None:
        caption += " No ground truth is known for this split."
    elif _is_mask(split):
        caption += f" {_OF_OUTLINES}"
    truth = "" if split.ground_truth is None else ", ground truth"
    alt = f"{len(rows)} diseased images, one a row: input, healthy output{truth} and difference maps"
    return _sample_grid(path, split, rows, columns, "Diseased images", caption, alt)


def figure_healthy(path, prediction, split, num_samples=4):
    """Draw the first healthy images with output and difference, which should be empty; None without a map."""
    rows = _first(split, HEALTHY, num_samples)
    if prediction.anomaly_map is None or not rows:
        return None
    if prediction.healthy_image is None:
        return _saliency_grid(path, split, rows, prediction.anomaly_map, "Healthy images")
    columns = [
        ("Input $r_h$", split.images, "image"),
        ("Output $a_h$", prediction.healthy_image, "image"),
        ("Difference $|d|$", prediction.anomaly_map, "magnitude"),
        ("$d$, signed", prediction.anomaly_map, "signed"),
    ]
    caption = (
        f"The first {len(rows)} healthy images of the split in its order, not picked, on the scales of the diseased "
        "ones. A perfect method changes nothing here."
    )
    alt = f"{len(rows)} healthy images, one a row: input, healthy output and difference maps"
    return _sample_grid(path, split, rows, columns, "Healthy images", caption, alt)


def figure_roc(path, prediction, split, threshold=None):
    """Draw the image-level ROC curve and the histogram of |d| inside and outside the masks; None if neither is known.

    `threshold`: of |d| in image units, and of |GT| where that is no mask; None leaves the histogram out.
    """
    labels = np.asarray(split.labels)
    score, named = prediction.anomaly_score, "anomaly score"
    if prediction.class_probabilities is not None:
        score, named = np.asarray(prediction.class_probabilities)[:, DISEASED], "disease probability"
    has_roc = score is not None and len(np.unique(labels)) == 2
    has_pixels = (
        threshold is not None
        and prediction.anomaly_map is not None
        and prediction.healthy_image is not None  # a saliency has no image units
        and bool(evaluator.judged(split).any())
    )
    if not has_roc and not has_pixels:
        return None
    figure = Figure(figsize=(4.4 * (has_roc + has_pixels), 4.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, has_roc + has_pixels, squeeze=False)[0].tolist()
    captions = []
    if has_roc:
        from sklearn.metrics import roc_curve  # takes a second to load

        axis = axes.pop(0)
        false_rate, true_rate, _ = roc_curve(labels, score)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
        axis.plot(false_rate, true_rate, color="#0571b0", linewidth=2, clip_on=False)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
        area = metrics.auroc_image(score, labels)
        axis.set_title(f"Images, by {named}: AUROC {area:.3f}", fontsize=10)
        captions.append(f"ROC curve of the images by {named}.")
    if has_pixels:
        axis = axes.pop(0)
        edges = np.linspace(0, 2, 101)
        inside, outside = np.zeros(100), np.zeros(100)
        for index in np.flatnonzero(evaluator.judged(split)):
            magnitude = np.minimum(np.abs(np.asarray(prediction.anomaly_map[index], np.float64)), 2)
            mask = np.abs(np.asarray(split.ground_truth[index])) > (0 if _is_mask(split) else threshold)
            # Told that bins are equally wide, it need not search for them.
            inside += np.histogram(magnitude[mask], 100, (0, 2))[0]
            outside += np.histogram(magnitude[~mask], 100, (0, 2))[0]
        for counts, colour, label in ((outside, "#0571b0", "outside the mask"), (inside, "#ca0020", "inside the mask")):
            share = counts / max(counts.sum(), 1)
            axis.stairs(share, edges, fill=True, alpha=0.25, color=colour)
            axis.stairs(share, edges, color=colour, linewidth=1.5, label=label)
        axis.axvline(threshold, color="0.2", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3f}")
        axis.set(xlim=(0, 2), yscale="log", xlabel="|d|, image units", ylabel="Share of the pixels of each group")
        axis.set_ylim(top=2)
        axis.set_title("Pixels of diseased images", fontsize=10)
        axis.legend(fontsize=8, frameon=False)
        captions.append(
            "Histogram of |d| over all pixels of diseased images, inside and outside the mask"
            f"{'' if _is_mask(split) else ' |GT| > threshold'}; right of the dashed line a pixel is called anomalous. "
            "Logarithmic vertical axis."
        )
    alt = " and ".join(["ROC curve of the images"] * has_roc + ["histogram of pixel differences"] * has_pixels)
    return _save(figure, path, "How well images and pixels separate", " ".join(captions), alt)


def figure_calibration(path, prediction, split):
    """Draw the reliability diagram of the disease probability; None where the method gives none."""
    if prediction.class_probabilities is None:
        return None
    labels = np.asarray(split.labels)
    found = decisions.calibration(np.asarray(prediction.class_probabilities)[:, DISEASED], labels)
    used = [each for each in found["bins"] if each["num_images"]]
    mean = np.array([each["mean_probability"] for each in used])
    share = np.array([each["num_diseased"] / each["num_images"] for each in used])
    intervals = [metrics.proportion_interval(each["num_diseased"], each["num_images"]) for each in used]
    # Rounding may put a share of one just outside its interval.
    reach = np.maximum([[x - low, high - x] for x, (low, high) in zip(share, intervals, strict=True)], 0).T
    figure = Figure(figsize=(4.4, 5.2), dpi=_DPI, layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    curve.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    curve.errorbar(mean, share, reach, color="#0571b0", linewidth=1.5, elinewidth=1, marker="o", capsize=2)
    curve.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="Share of diseased images")
    error = found["expected_calibration_error"]
    curve.set_title(f"Calibration: expected calibration error {error:.3f}", fontsize=10)
    edges = [each["low"] for each in found["bins"]] + [1]
    diseased = np.array([each["num_diseased"] for each in found["bins"]])
    healthy = np.array([each["num_images"] for each in found["bins"]]) - diseased
    counts.stairs(healthy, edges, color="#0571b0", fill=True, alpha=0.4, label="healthy")
    counts.stairs(diseased, edges, color="#ca0020", fill=True, alpha=0.4, label="diseased")
    counts.set(xlabel="Disease probability", ylabel="Images", ylim=(0, None))
    counts.legend(fontsize=8, frameon=False)
    caption = (
        f"Disease probabilities in {found['num_bins']} bins of equal width: the share of diseased images in each, with "
        "its 95 % interval (Wilson's), over the mean probability there; on the dashed line a probability is what it "
        "says. Below, how many images of each class a bin holds."
    )
    alt = "Reliability diagram of the disease probability, and a histogram of it by class"
    return _save(figure, path, "Are the probabilities what they say?", caption, alt)


def write_samples(path, prediction, split, num_samples=4):
    """Keep what the figures of several methods side by side need: the first images of each class and their answers.

    An .npz of the fields of a Split and of a Prediction, those that are known; `read_samples` gives them back.
    """
    chosen = [*_first(split, HEALTHY, num_samples), *_first(split, DISEASED, num_samples)]
    split = split._replace(names=np.array([shown(name) for name in split.names]))
    fields = {**prediction._asdict(), **split._asdict()}
    arrays = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    arrays = {name: array[chosen] if array.ndim else array for name, array in arrays.items()}
    return write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_samples(path):
    """(Prediction, Split) of what `write_samples` kept; UserError where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            prediction, split = (
                # Files of older versions do not say what kind a ground truth is.
                kind(**{name: file.get(name, kind._field_defaults.get(name)) for name in kind._fields})
                for kind in (Prediction, Split)
            )
            return prediction, split._replace(ground_truth_kind=str(split.ground_truth_kind))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): evaluate that run again.") from error


@_in_one_style
def draw_comparison(folder, predictions, split):
    """Draw methods side by side (Figures 5 and 6), a row for each image; a list of FigureFile.

    Args:
        folder: where the pictures go.
        predictions: Prediction by what a column is called, each of the images of `split`; those without a map are left
            out.
        split: a few images, all of which are drawn.
    """
    predictions = {
        name.replace(" (", "\n("): found for name, found in predictions.items() if found.anomaly_map is not None
    }
    folder = Path(folder)
    panels = _panels_of_paper(folder / "panels.png", predictions, split)
    drawn = [panels] if panels else []
    for label, class_name in reversed(list(enumerate(CLASS_NAMES))):
        rows = np.flatnonzero(np.asarray(split.labels) == label).tolist()
        if not rows or not predictions:
            continue
        title = f"{class_name.capitalize()} images"
        images = [("Input", split.images, "image")]
        truth = _ground_truth_columns(split) if label == DISEASED else []
        maps = [(name, found.anomaly_map, "magnitude") for name, found in predictions.items()]
        caption = (
            f"|d| of each method for the first {len(rows)} {class_name} images in their order, not picked; one scale, "
            f"[0, {SCALE:g}], in every panel, no scaling per image. A saliency is no difference of images: its largest "
            "value is the image's disease probability."
        ) + (f" {_OF_OUTLINES}" if truth and _is_mask(split) else "")
        alt = f"{len(rows)} {class_name} images, one a row, and the difference map of each method, one a column"
        path = folder / f"{class_name}_maps.png"
        drawn.append(_sample_grid(path, split, rows, images + truth + maps, f"{title}: maps", caption, alt))
        outputs = [
            (name, found.healthy_image, "image")
            for name, found in predictions.items()
            if found.healthy_image is not None
        ]
        if not outputs:
            continue
        caption = f"Output a_h of each method for the same {class_name} images. " + (
            "It should be their healthy twin." if label == DISEASED else "It should be the input."
        )
        alt = f"{len(rows)} {class_name} images, one a row, and the healthy image of each method, one a column"
        path = folder / f"{class_name}_outputs.png"
        drawn.append(_sample_grid(path, split, rows, images + outputs, f"{title}: outputs", caption, alt))
    return drawn


def _panels_of_paper(path, predictions, split, num_samples=2):
    """Draw as the paper's Figures 5 and 6: a row for each method, two diseased images side by side."""
    translating = {name: found for name, found in predictions.items() if found.healthy_image is not None}
    samples = _first(split, DISEASED, num_samples)
    if not translating or not samples:
        return None
    truth = [column for column in _ground_truth_columns(split) if column[1] is not None]
    figure, axes = _panels(len(translating), len(samples) * (3 + len(truth)), inches=1.6)
    for number, (name, found) in enumerate(translating.items()):
        columns = [
            ("Input $r_p$", split.images, "image"),
            ("Output $a_h$", found.healthy_image, "image"),
            *truth,
            ("Difference $|d|$", found.anomaly_map, "magnitude"),
        ]
        panels = [(index, *column) for index in samples for column in columns]
        for axis, (index, title, stack, kind) in zip(axes[number], panels, strict=True):
            artist, _ = _show_column(axis, split, index, stack, kind, None if number else title)
        _name_row(axes[number, 0], name, fontsize=9)
    _bar(figure, artist, axes.ravel(), "vertical", ticks=[0, 0.5, 1])
    caption = (
        f"The first {len(samples)} diseased images of the split in its order, not picked, as Figure "
        f"{6 if split.ground_truth is None else 5} of the paper shows them: one row a method that gives a healthy "
        f"image; |d| in [0, {SCALE:g}] in every panel, no scaling per image."
    ) + (f" {_OF_OUTLINES}" if truth and _is_mask(split) else "")
    alt = f"{len(translating)} methods, one a row: input, healthy output and difference map of each diseased image"
    return _save(figure, path, "Methods side by side, as in the paper", caption, alt)


def row_names(names):
    """What to call each of some images by its path: its file's name; where those are alike, what tells them apart."""
    paths = [Path(str(name)).parts for name in names]
    files = [path[-1:] for path in paths]
    if len(set(files)) < len(files):
        shared = {part for part in paths[0] if all(part in path for path in paths)}
        files = [[part for part in path if part not in shared] or path[-1:] for path in paths]
    return [shown("/".join(file))[-24:] for file in files]


def _first(split, label, count):
    return np.flatnonzero(np.asarray(split.labels) == label)[:count].tolist()


def _plane(stack, index):
    values = np.asarray(stack[index])
    return values[..., 0] if values.ndim == 3 else values


def _panels(num_rows, num_columns, inches):
    """Square panels at fixed places: to find places by what is in them takes as long as to draw it."""
    width, height = (count * (inches + _GAP) - _GAP + 2 * _MARGIN for count in (num_columns, num_rows))
    figure = Figure(figsize=(width, height), dpi=_DPI)
    around = {"left": _MARGIN / width, "right": 1 - _MARGIN / width}
    around |= {"bottom": _MARGIN / height, "top": 1 - _MARGIN / height}
    between = dict.fromkeys(("wspace", "hspace"), _GAP / inches)
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=around | between)


def _bar(figure, artist, axes, orientation, ticks):
    """The colour scale of panels, below them ("horizontal") or on their right."""
    (width, height), box = figure.get_size_inches(), Bbox.union([axis.get_position() for axis in axes])
    if orientation == "vertical":
        place = (box.x1 + _GAP / width, box.y0, 0.12 / width, box.height)
    else:
        place = (box.x0 + 0.05 * box.width, box.y0 - 0.2 / height, 0.9 * box.width, 0.09 / height)
    figure.colorbar(artist, cax=figure.add_axes(place), orientation=orientation, ticks=ticks)


def _show(axis, values, kind, title=None):
    colours, low, high = {
        "image": ("gray", -1, 1),
        "magnitude": ("magma", 0, SCALE),
        "signed": (_SIGNED_MAP, -SCALE, SCALE),
    }[kind]
    values = np.abs(values) if kind == "magnitude" else values
    for side in (axis.xaxis, axis.yaxis):
        side.set_ticks([])
        side.set_visible(False)  # nobody need ask how large it is
    if title:
        axis.set_title(title, fontsize=10)
    return axis.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _name_row(axis, name, fontsize):
    axis.set_ylabel(name, fontsize=fontsize)
    axis.yaxis.set_visible(True)


def _is_mask(split):
    return split.ground_truth is not None and split.ground_truth_kind == MASK


def _ground_truth_columns(split):
    """A mask has no size that a colour could stand for: its outline is drawn over the image."""
    if _is_mask(split):
        return [("Ground truth", split.images, _OUTLINED)]
    return [("$|GT|$", split.ground_truth, "magnitude")]


def _outline(axis, mask):
    if np.ptp(mask) > 0:  # matplotlib warns of a contour that is not there
        axis.contour(mask, levels=[0.5], colors=[_OUTLINE_COLOUR], linewidths=1.2)


def _saliency_grid(path, split, rows, saliency, title):
    columns = [
        ("Input", split.images, "image"),
        *_ground_truth_columns(split),
        ("Saliency", saliency, "magnitude"),
    ]
    caption = (
        f"The first {len(rows)} {title.lower()} of the split in its order, not picked. The saliency is where the "
        f"classifier sees disease: in [0, {SCALE:g}], its largest value is the image's disease probability; it is no "
        "difference of images."
    )
    alt = f"{len(rows)} {title.lower()}, one a row: input, ground truth where known, and saliency map"
    return _sample_grid(path, split, rows, columns, title, caption, alt)


def _show_column(axis, split, index, stack, kind, title):
    """Draw one panel of a row; what was drawn, and by which scale."""
    shown_as = "image" if kind == _OUTLINED else kind
    artist = _show(axis, _plane(stack, index), shown_as, title)
    if kind == _OUTLINED:
        _outline(axis, _plane(split.ground_truth, index))
    return artist, shown_as


def _sample_grid(path, split, rows, columns, title, caption, alt):
    columns = [column for column in columns if column[1] is not None]
    figure, axes = _panels(len(rows), len(columns), inches=1.6)
    artists, called = {}, row_names([split.names[index] for index in rows])
    for row, index in enumerate(rows):
        for column, (name, stack, kind) in enumerate(columns):
            artist, kind = _show_column(axes[row, column], split, index, stack, kind, None if row else name)
            artists.setdefault(kind, (artist, []))[1].append(column)
        _name_row(axes[row, 0], called[row], fontsize=7)
    for kind, (artist, used) in artists.items():
        low = 0 if kind == "magnitude" else -1
        ticks = [0, 0.5, 1] if low == 0 else [-1, 0, 1]
        _bar(figure, artist, axes[:, sorted(set(used))].ravel(), "horizontal", ticks)
    return _save(figure, path, title, caption, alt)


def _save(figure, path, title, caption, alt):
    renderer = FigureCanvasAgg(figure).get_renderer()
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")
    part = figure.get_tightbbox(renderer).padded(0.08)  # "tight" is this, after the whole was drawn once to no purpose
    buffer = io.BytesIO()
    # No version string: the same input gives the same bytes.
    figure.savefig(buffer, format="png", bbox_inches=part, metadata={"Software": None})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FigureFile(write_atomically(path, buffer.getvalue()), title, caption, alt)
