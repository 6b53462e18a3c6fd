"""A run's result as report.md, report.json, report.html and per_image.csv, and as text for the terminal."""

import csv
import html
import io
import os
from pathlib import Path

from descargan_tf.evaluation import pages
from descargan_tf.evaluation.paper import OWN_ROW, PAPER
from descargan_tf.files import write_atomically
from descargan_tf.measures import HEADLINE, MEASURES, PROTOCOLS, TABLE_1, TABLE_2
from descargan_tf.types import MASK

SCHEMA = 1
PAPER_TABLE_1, PAPER_TABLE_2 = PAPER[OWN_ROW].table_1, PAPER[OWN_ROW].table_2
PAPER_NOTE = (
    "The paper's column is the DeScarGAN row as printed: 256x256, authors' data and program. Data, image size and "
    "scaling differ, so it is not directly comparable."
)
_ABOUT_TITLES = {
    "method": "Method",
    "checkpoint": "Checkpoint",
    "data_digest": "Data manifest digest",
    "batch_norm_inference": "Batch normalisation at inference",
    "git_commit": "Git commit",
    "wall_seconds": "Wall time, seconds",
    "command": "Command that reruns it",
}
_DECISIONS = "Probabilities and operating points"
LIMITS = (
    "Research software. It is not a medical device and must not guide the care of a patient.",
    "A map shows what this method would change to make an image look healthy; that need not be the disease.",
    "Intervals are 95 % bootstrap intervals over the images of this one split and this one trained model; they do not "
    "hold the spread between training runs.",
    "Pixel metrics need a ground truth that a person or a generator made; they say nothing about images without one.",
)


def write_report(run_dir, result, figures, about):
    """Write the four report files into `run_dir`, each atomically; returns their paths.

    Args:
        run_dir: folder, made if missing.
        result: of `evaluator.evaluate_split`.
        figures: of `figures.draw_all`; they are linked from report.md and embedded in report.html.
        about: provenance, any of config, versions (dicts), method, checkpoint, data_digest, batch_norm_inference,
            git_commit, wall_seconds, command; other keys are carried along.
    """
    run_dir = Path(run_dir)
    figures = [figure for figure in figures if figure is not None]
    contents = {
        "report.json": _json(run_dir, result, figures, about),
        "per_image.csv": _csv(result["per_image"]),
        "report.md": _markdown(run_dir, result, figures, about),
        "report.html": _html(result, figures, about),
    }
    return [write_atomically(run_dir / name, text.encode(errors="backslashreplace")) for name, text in contents.items()]


def format_table(result):
    """Set the result as aligned text for a terminal."""
    lines = [_sentence(result), ""]
    for protocol, (title, _) in PROTOCOLS.items():
        lines.append(f"{title}, {_threshold_text(result['threshold'][protocol])}")
        rows = [("", "this run", "95 % interval", "all-zero map", "paper*")]
        for name in rows_of(TABLE_1, result["metrics"][protocol]):
            entry = result["metrics"][protocol][name]
            zero = result["baseline_zero_map"][protocol][name]
            paper = PAPER_TABLE_1.get(name, "") if protocol == "authors" else ""
            rows.append((MEASURES[name].title, _value(name, entry), _interval(name, entry), _value(name, zero), paper))
        lines += [*_aligned(rows), ""]
    lines.append("images")
    rows = [("", "this run", "95 % interval")]
    for name in TABLE_2:
        if name != "mse_healthy":
            entry = result["metrics"][HEADLINE][name]
            rows.append((MEASURES[name].title, _value(name, entry), _interval(name, entry)))
    lines += [*_aligned(rows), ""]
    if _operating_points(result):
        lines += [*_aligned(_operating_points(result)), ""]
    lines += [f"{name}: {reason}" for name, reason in _reasons(result)]
    return "\n".join([*lines, f"* {PAPER_NOTE}"])


def _json(run_dir, result, figures, about):
    scores = {key: value for key, value in result.items() if key != "per_image"}
    pictures = [
        {"file": _relative(run_dir, figure.path), "title": figure.title, "caption": figure.caption, "alt": figure.alt}
        for figure in figures
    ]
    everything = {"schema": SCHEMA, **scores, "figures": pictures}
    provenance = {"config": None, "versions": None, "git_commit": None, **about}
    everything |= {key: value for key, value in provenance.items() if key not in everything}
    return pages.json_text(everything)


def _csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _relative(run_dir, path):
    return Path(os.path.relpath(path, run_dir)).as_posix()


def _value(name, entry):
    if entry["mean"] is None:
        return "n/a"
    var = "" if entry["var"] is None else f" ({pages.number(name, entry['var'])})"
    return pages.number(name, entry["mean"]) + var


def _interval(name, entry):
    return "" if entry["ci95"] is None else "[{}, {}]".format(*(pages.number(name, value) for value in entry["ci95"]))


def _threshold_text(threshold):
    return "no threshold" if threshold["value"] is None else f"threshold {threshold['value']:.4f}"


def _reasons(result):
    """Why a number is missing or over fewer images: (label, text) once each, from the headline protocol and Table 2."""
    said = []
    for name in rows_of(TABLE_1 + TABLE_2, result["metrics"][HEADLINE]):
        label = MEASURES[name].title
        for protocol in PROTOCOLS:
            entry = result["metrics"][protocol][name]
            text = entry.get("reason") or entry.get("note")
            if text and (label, text) not in said:
                said.append((label, text))
    for key, label in (("calibration", "Calibration"), ("operating_points", "Operating points")):
        reason = result.get(key, {}).get("reason")
        if reason:
            said.append((label, reason))
    return said


def rows_of(names, metrics):
    """Those of a table's measures that a protocol's `metrics` hold, once each: some are of one kind of ground truth."""
    return [name for name in dict.fromkeys(names) if name in metrics]


def _sentence(result):
    """Say the result in one or two sentences, from the numbers alone."""
    split, scores = result["split"], result["metrics"][HEADLINE]
    zero = result["baseline_zero_map"][HEADLINE]["mse_d_gt"]["mean"]
    parts = []
    for name, words in (("dice", "Dice"), ("auroc_pixel", "pixel AUROC"), ("accuracy", "accuracy")):
        entry = scores[name]
        if entry["mean"] is not None:
            interval = "" if entry["ci95"] is None else " (95 % interval {:.3f} to {:.3f})".format(*entry["ci95"])
            parts.append(f"{words} is {entry['mean']:.3f}{interval}")
    text = (
        f"On {split['num_images']} {split['name']} images ({split['num_healthy']} healthy, "
        f"{split['num_diseased']} diseased), " + (", ".join(parts) if parts else "no score could be computed") + "."
    )
    error = scores["mse_d_gt"]["mean"]
    if error is not None and zero:
        level = f"MSE(d, GT) is {pages.number('mse', error)},"
        if error < zero:
            text += f" {level} {100 * error / zero:.0f} % of the {pages.number('mse', zero)} of an all-zero map."
        else:
            nothing = pages.number("mse", zero)
            text += f" {level} not below the {nothing} of an all-zero map: no better than predicting nothing."
    return text


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _table_1(result):
    header = ["Table 1"]
    for title, _ in PROTOCOLS.values():
        header += [f"This run, {title}", f"All-zero map, {title}"]
    rows = [[*header, "Paper, 256x256, authors' data"]]
    for name in rows_of(TABLE_1, result["metrics"][HEADLINE]):
        row = [MEASURES[name].title]
        for protocol in PROTOCOLS:
            entry = result["metrics"][protocol][name]
            row += [_cell(name, entry), _cell(name, result["baseline_zero_map"][protocol][name], interval=False)]
        rows.append([*row, PAPER_TABLE_1.get(name, "")])
    return rows


def _table_2(result):
    rows = [["Table 2", "This run", "Paper, CheXpert, authors' data"]]
    for name in TABLE_2:
        rows.append([MEASURES[name].title, _cell(name, result["metrics"][HEADLINE][name]), PAPER_TABLE_2.get(name, "")])
    return rows


def _operating_points(result):
    """Rows of a table, its head first; none where there are no points."""
    found = result.get("operating_points", {})
    if not found.get("points"):
        return []
    rows = [["Operating point", f"Threshold, {found['score']}", "Sensitivity", "Specificity"]]
    for point in found["points"]:
        name = f"Sensitivity {100 * point['target_sensitivity']:.0f} % on {found['split']}"
        entries = [{"var": None, **point[key]} for key in ("sensitivity", "specificity")]
        rows.append([name, f"{point['threshold']:.9g}", *(_cell("sensitivity", entry) for entry in entries)])
    return rows


def decision_sentences(result):
    """Say where operating points come from, how exact they are, and how well probabilities are calibrated."""
    found, calibration = result.get("operating_points", {}), result.get("calibration", {})
    said = []
    if found.get("points"):
        checksum = f", data checksum {found['data_checksum']}" if found.get("data_checksum") else ""
        said.append(
            f"Operating points: each threshold is {found['rule']}, over {found['num_diseased']} diseased images of the "
            f"{found['split']} split{checksum}. An image is called diseased at or above it. The images evaluated here "
            f"had no part in the choice; brackets hold {found['interval']}."
        )
        for point in found["points"]:
            there = point["chosen_on"]
            specificity = "n/a" if there["specificity"] is None else f"{there['specificity']:.3f}"
            said.append(
                f"At {point['threshold']:.9g} the {found['split']} split itself has sensitivity "
                f"{there['sensitivity']:.3f} and specificity {specificity}."
            )
    if calibration.get("bins"):
        said.append(
            f"Calibration: the expected calibration error is {calibration['expected_calibration_error']:.3f}, the mean "
            "over the images of |share of diseased images - mean disease probability| of their bin, with "
            f"{calibration['num_bins']} bins of equal width; the Brier score is the mean square of disease probability "
            "minus label. Both depend on the share of diseased images in the split."
        )
    return said


def _cell(name, entry, interval=True):
    return " ".join(filter(None, (_value(name, entry), _interval(name, entry) if interval else "")))


def threshold_sentences(result):
    """Say where each protocol's threshold, `result["threshold"]`, comes from."""
    sentences = []
    for protocol, (title, _) in PROTOCOLS.items():
        entry = result["threshold"][protocol]
        name = title.capitalize()
        if entry["value"] is None:
            sentences.append(f"{name}: {entry.get('reason', 'not available')}.")
            continue
        checksum = f", data checksum {entry['data_checksum']}" if entry.get("data_checksum") else ""
        if entry.get("published_with"):
            checksum += f", as published with {entry['published_with']}"
        sentences.append(
            f"{name}: {entry['value']:.5f}, the {entry['rule']}, over {entry['num_images']} images of the "
            f"{entry['split']} split{checksum}."
        )
        if entry.get("otsu_value") is not None:
            sentences.append(f"{name}, second line: {entry['otsu_value']:.5f}, the {entry['otsu_rule']}.")
        if entry.get("map_value") is not None:
            sentences.append(f"{name}, maps: {entry['map_value']:.5f}, the {entry['map_rule']} of the same split.")
    return sentences


def _what_this_is(result, about):
    method = about.get("method") or "an anomaly detection method"
    saliency = (
        f" This method gives no healthy image: its maps are saliencies ({about['saliency']}), in [0, 1] and without "
        "sign or image units, with a threshold of their own."
        if about.get("saliency", "none") != "none"
        else ""
    )
    truth = "GT is the true healthy image minus the diseased one"
    if result["split"].get("ground_truth_kind") == MASK:
        truth = (
            "the ground truth is a mask, which says which pixels disease has changed and not by how much or in which "
            "direction: Dice and AUROC are taken against the mask itself, and what needs sign or size is not available"
        )
    return (
        f"Evaluation of {method} on the {result['split']['name']} split: how well a map learned from image-level "
        "labels alone marks the pixels that disease has changed, and how well images are told apart. d is the "
        f"generated healthy image a_h minus the input r; {truth}; (var) is the "
        "mean over images of the pixel variance of the difference. In the authors' protocol each image is min-max "
        "scaled before the difference; in image units nothing is scaled. Brackets hold 95 % bootstrap intervals over "
        f"images.{saliency}"
    )


def _provenance(about):
    """Rows (title, text) of what is plain, and (title, dict) of what is nested."""
    about = pages.plain(about)
    flat = [(title, str(about.get(key) or "not recorded")) for key, title in _ABOUT_TITLES.items() if key != "command"]
    flat += [
        (key, str(value))
        for key, value in about.items()
        if key not in _ABOUT_TITLES and key not in ("config", "versions")
    ]
    return flat, [(key.capitalize(), about[key]) for key in ("versions", "config") if about.get(key)]


def _markdown(run_dir, result, figures, about):
    flat, nested = _provenance(about)
    command = str(about.get("command") or "not recorded")
    lines = ["# Evaluation report", "", _what_this_is(result, about), "", "## Result", "", _sentence(result), ""]
    lines += [*pages.markdown_table(_table_1(result)), "", *pages.markdown_table(_table_2(result)), "", PAPER_NOTE, ""]
    if _operating_points(result):
        lines += [*pages.markdown_table(_operating_points(result)), ""]
    lines += [*(f"- {label}: {text}" for label, text in _reasons(result)), ""]
    if figures:
        lines += ["## Figures", ""]
    for figure in figures:
        lines += [f"### {figure.title}", "", f"![{figure.alt}]({_relative(run_dir, figure.path)})", ""]
        lines += [figure.caption.replace("|", "\\|"), ""]
    lines += ["## How the threshold was chosen", "", *(f"- {text}" for text in threshold_sentences(result)), ""]
    if decision_sentences(result):
        lines += [f"## {_DECISIONS}", "", *(f"- {text}" for text in decision_sentences(result)), ""]
    lines += ["## Limits", "", *(f"- {text}" for text in LIMITS), ""]
    lines += ["## Run it again", "", "```sh", command, "```", "", *pages.markdown_table([["What", "Value"], *flat]), ""]
    for title, values in nested:
        rows = [["Name", "Value"], *([key, str(value)] for key, value in values.items())]
        lines += [f"### {title}", "", *pages.markdown_table(rows), ""]
    return "\n".join(line for line in lines)


def _html(result, figures, about):
    esc = html.escape
    flat, nested = _provenance(about)
    command = str(about.get("command") or "not recorded")
    method = str(about.get("method") or "")
    title = f"Evaluation report: {method}" if method else "Evaluation report"

    def scores(rows, caption, own_columns):
        body = []
        for name, *cells in rows[1:]:
            lines = [_value_and_interval(cell) for cell in cells]
            body.append([name, *(pages.ScoreCell(x, i in own_columns) for i, x in enumerate(lines, start=1))])
        head = "Metric" if rows[0][0].startswith("Table") else rows[0][0]
        return pages.score_table([head, *rows[0][1:]], body, caption)

    reasons = [f"{label}: {text}" for label, text in _reasons(result)]
    points, said = _operating_points(result), decision_sentences(result)
    sections = [
        f"<h1>{esc(title)}</h1>",
        f"<p>{esc(_what_this_is(result, about))}</p>",
        "<h2>Result</h2>",
        f'<p class="result">{esc(_sentence(result))}</p>',
        scores(_table_1(result), "Table 1: maps against the ground truth", own_columns=(1, 3)),
        scores(_table_2(result), "Table 2: healthy or diseased, by image", own_columns=(1,)),
        f'<p class="soft">{esc(PAPER_NOTE)}</p>',
        scores(points, "Operating points", own_columns=(2, 3)) if points else "",
        pages.bullets(reasons) if reasons else "",
        "<h2>Figures</h2>" if figures else "",
        *(pages.picture(figure) for figure in figures),
        "<h2>How the threshold was chosen</h2>",
        pages.bullets(threshold_sentences(result)),
        *([f"<h2>{_DECISIONS}</h2>", pages.bullets(said)] if said else []),
        "<h2>Limits</h2>",
        pages.bullets(LIMITS),
        "<h2>Run it again</h2>",
        f"<pre><code>{esc(command)}</code></pre>",
        pages.facts(flat),
        *(f"<details><summary>{esc(name)}</summary>{pages.facts(values.items())}</details>" for name, values in nested),
    ]
    return pages.page(title, sections)


def _value_and_interval(cell):
    value, bracket, interval = cell.partition(" [")
    return [value, f"[{interval}"] if bracket else [value]
