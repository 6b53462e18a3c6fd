"""What --mode=check_data found, as one page: sentences, tables, and some images of each class to look at."""

import base64
import html
import io

import numpy as np
from PIL import Image

from descargan_tf.data.examination import Examination
from descargan_tf.data.folders import DataSummary
from descargan_tf.data.leaks import TITLES, statistics_scores
from descargan_tf.evaluation import pages
from descargan_tf.names import shown
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY

_MAX_PAIRS = 50
_COLUMNS = 6  # of a contact sheet
_GAP = 4  # pixels


def data_page(summary: DataSummary, examination: Examination, findings: list[str], notes: list[str]) -> str:
    """HTML without anything from outside; it holds pictures of the data."""
    count = len(findings)
    verdict = f"{count} finding{'s' if count > 1 else ''}." if count else "Nothing suspicious was found."
    sections = [
        f"<h1>Data check: {html.escape(shown(summary.root))}</h1>",
        f'<p class="result"><strong>{verdict}</strong></p>',
        *([pages.bullets(findings)] if findings else []),
        *(["<h2>Notes</h2>", pages.bullets(notes)] if notes else []),
        "<h2>What is there</h2>",
        _classes(summary),
        "<h2>Single numbers that might tell the class</h2>",
        "<p>Accuracy of a threshold on one number of an image, on images that it was not fitted on: 50% knows nothing. "
        "Bold: above 60% and not by chance. Where ground truth says what the number is without the disease, the lower "
        "of the two accuracies counts.</p>",
        _statistics(summary),
    ]
    if examination.pairs:
        sections += ["<h2>Nearly the same picture in different splits</h2>", _pairs(examination)]
    sections += ["<h2>Some of each class</h2>", *(_sheet(examination, summary, label) for label in (HEALTHY, DISEASED))]
    return pages.page(f"Data check: {shown(summary.root)}", sections)


def _classes(summary):
    rows = [
        (
            f"{c.split} {CLASS_NAMES[c.label]}",
            str(c.num_images),
            f"{c.minimum:g} to {c.maximum:g}",
            str(c.num_ground_truths),
            str(c.num_ignored),
        )
        for c in summary.classes
    ]
    caption = f"{summary.dtype}, {summary.image_size}x{summary.image_size} pixels"
    return pages.score_table(("", "images", "values", "ground truths", "other files"), rows, caption)


def _statistics(summary):
    found = statistics_scores(summary.measured)
    scopes = list(dict.fromkeys(scope for scores in found.values() for scope in scores))
    diseased = summary.measured.labels == DISEASED
    rows = []
    for column, (name, scores) in enumerate(found.items()):
        values = summary.measured.whole[:, column]
        cells = [
            pages.ScoreCell([f"{scores[scope].accuracy:.0%}"], scores[scope].is_leak) if scope in scores else "-"
            for scope in scopes
        ]
        rows.append((getattr(TITLES, name), *(f"{np.nanmedian(values[m]):.4g}" for m in (~diseased, diseased)), *cells))
    caption = "Too few images of a class to judge by." if not scopes else f"of {len(diseased)} images"
    return pages.score_table(("", "median, healthy", "median, diseased", *scopes), rows, caption)


def _pairs(examination):
    rows = [
        (shown(examination.names[pair.first]), shown(examination.names[pair.second]), f"{pair.correlation:.3f}")
        for pair in examination.pairs[:_MAX_PAIRS]
    ]
    caption = f"{len(rows)} of {len(examination.pairs)} pairs, the most alike first; 1 is the same picture"
    return pages.score_table(("", "and", "correlation"), rows, caption)


def _sheet(examination, summary, label):
    parts = []
    for (split, own), thumbnails in examination.thumbnails.items():
        if own != label or not thumbnails:
            continue
        side = len(thumbnails[0]) + _GAP
        num_rows = -(-len(thumbnails) // _COLUMNS)
        sheet = np.full((num_rows * side - _GAP, min(len(thumbnails), _COLUMNS) * side - _GAP), 255, np.uint8)
        for index, thumbnail in enumerate(thumbnails):
            top, left = side * (index // _COLUMNS), side * (index % _COLUMNS)
            sheet[top : top + side - _GAP, left : left + side - _GAP] = thumbnail
        content = io.BytesIO()
        Image.fromarray(sheet).save(content, "PNG")
        title = f"{split}, {CLASS_NAMES[label]}"
        count = summary.count(split, label)
        parts.append(
            f'<figure><h3>{title}</h3><img alt="{len(thumbnails)} images, {title}" '
            f'src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
            f"<figcaption>{len(thumbnails)} of {count}, evenly spaced, in one range of brightness</figcaption></figure>"
        )
    return "\n".join(parts)
