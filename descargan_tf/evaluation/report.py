"""A run's result as report.md, report.json, report.html and per_image.csv, and as text for the terminal."""

import base64
import csv
import html
import io
import json
import math
import os
from pathlib import Path

import numpy as np

from descargan_tf.files import write_atomically

SCHEMA = 1
TABLE_1 = {
    "dice": "Dice",
    "auroc_pixel": "AUROC, pixels",
    "mse_d_gt": "MSE(d, GT) (var)",
    "ssim": "SSIM",
    "mse_healthy": "MSE(r_h, a_h) (var)",
    "dice_pooled": "Dice, all pixels pooled",
    "auroc_pixel_pooled": "AUROC, all pixels pooled",
}
TABLE_2 = {
    "accuracy": "Accuracy",
    "kappa": "Cohen's kappa",
    "auroc_image": "AUROC, images",
    "auroc_score": "AUROC, images, by anomaly score",
    "mse_healthy": "MSE(r_h, a_h) (var)",
}
PAPER_TABLE_1 = {  # row DeScarGAN
    "dice": "0.853",
    "auroc_pixel": "0.988",
    "mse_d_gt": "0.0086 (0.002)",
    "ssim": "0.954",
    "mse_healthy": "0.0018 (0.001)",
}
PAPER_TABLE_2 = {"accuracy": "0.898", "kappa": "0.795", "auroc_image": "0.953", "mse_healthy": "0.0035 (0.003)"}
PAPER_NOTE = (
    "The paper's column is the DeScarGAN row as printed: 256x256, authors' data and program. Data, image size and "
    "scaling differ, so it is not directly comparable."
)
_PROTOCOL_TITLES = {"image_units": "image units", "authors": "authors' protocol"}
_ABOUT_TITLES = {
    "method": "Method",
    "checkpoint": "Checkpoint",
    "data_digest": "Data manifest digest",
    "batch_norm_inference": "Batch normalisation at inference",
    "git_commit": "Git commit",
    "wall_seconds": "Wall time, seconds",
    "command": "Command that reruns it",
}
_LIMITS = (
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
    return [write_atomically(run_dir / name, text.encode()) for name, text in contents.items()]


def format_table(result):
    """Set the result as aligned text for a terminal."""
    lines = [_sentence(result), ""]
    for protocol, title in _PROTOCOL_TITLES.items():
        lines.append(f"{title}, {_threshold_text(result['threshold'][protocol])}")
        rows = [("", "this run", "95 % interval", "all-zero map", "paper*")]
        for name, label in TABLE_1.items():
            entry = result["metrics"][protocol][name]
            zero = result["baseline_zero_map"][protocol][name]
            paper = PAPER_TABLE_1.get(name, "") if protocol == "authors" else ""
            rows.append((label, _value(name, entry), _interval(name, entry), _value(name, zero), paper))
        lines += [*_aligned(rows), ""]
    lines.append("images")
    rows = [("", "this run", "95 % interval")]
    for name, label in TABLE_2.items():
        if name != "mse_healthy":
            entry = result["metrics"]["image_units"][name]
            rows.append((label, _value(name, entry), _interval(name, entry)))
    lines += [*_aligned(rows), ""]
    lines += [f"{name}: {reason}" for name, reason in _reasons(result)]
    return "\n".join([*lines, f"* {PAPER_NOTE}"])


def _plain(value):
    """Make a value JSON-ready: numpy and paths become plain, a number that JSON lacks becomes its name."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _json(run_dir, result, figures, about):
    scores = {key: value for key, value in result.items() if key != "per_image"}
    pictures = [
        {"file": _relative(run_dir, figure.path), "title": figure.title, "caption": figure.caption, "alt": figure.alt}
        for figure in figures
    ]
    everything = {"schema": SCHEMA, **scores, "figures": pictures}
    provenance = {"config": None, "versions": None, "git_commit": None, **about}
    everything |= {key: value for key, value in provenance.items() if key not in everything}
    return json.dumps(_plain(everything), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _csv(rows):
    text = io.StringIO()
    names = ("name", "label", "probability", "score", "dice", "auroc", "mse")
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _relative(run_dir, path):
    return Path(os.path.relpath(path, run_dir)).as_posix()


def _number(name, value):
    if not name.startswith("mse"):
        return f"{value:.3f}"
    return f"{value:.4f}" if value == 0 or value >= 0.001 else f"{value:.1e}"


def _value(name, entry):
    if entry["mean"] is None:
        return "n/a"
    var = "" if entry["var"] is None else f" ({_number(name, entry['var'])})"
    return _number(name, entry["mean"]) + var


def _interval(name, entry):
    return "" if entry["ci95"] is None else "[{}, {}]".format(*(_number(name, value) for value in entry["ci95"]))


def _threshold_text(threshold):
    return "no threshold" if threshold["value"] is None else f"threshold {threshold['value']:.4f}"


def _reasons(result):
    """Why a number is missing or over fewer images: (label, text) once each, from the headline protocol and Table 2."""
    said = []
    for name, label in (TABLE_1 | TABLE_2).items():
        for protocol in _PROTOCOL_TITLES:
            entry = result["metrics"][protocol][name]
            text = entry.get("reason") or entry.get("note")
            if text and (label, text) not in said:
                said.append((label, text))
    return said


def _sentence(result):
    """Say the result in one or two sentences, from the numbers alone."""
    split, scores = result["split"], result["metrics"]["image_units"]
    zero = result["baseline_zero_map"]["image_units"]["mse_d_gt"]["mean"]
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
        level = f"MSE(d, GT) is {_number('mse', error)},"
        if error < zero:
            text += f" {level} {100 * error / zero:.0f} % of the {_number('mse', zero)} of an all-zero map."
        else:
            text += (
                f" {level} not below the {_number('mse', zero)} of an all-zero map: no better than predicting nothing."
            )
    return text


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _table_1(result):
    header = ["Table 1"]
    for title in _PROTOCOL_TITLES.values():
        header += [f"This run, {title}", f"All-zero map, {title}"]
    rows = [[*header, "Paper, 256x256, authors' data"]]
    for name, label in TABLE_1.items():
        row = [label]
        for protocol in _PROTOCOL_TITLES:
            entry = result["metrics"][protocol][name]
            row += [_cell(name, entry), _cell(name, result["baseline_zero_map"][protocol][name], interval=False)]
        rows.append([*row, PAPER_TABLE_1.get(name, "")])
    return rows


def _table_2(result):
    rows = [["Table 2", "This run", "Paper, CheXpert, authors' data"]]
    for name, label in TABLE_2.items():
        rows.append([label, _cell(name, result["metrics"]["image_units"][name]), PAPER_TABLE_2.get(name, "")])
    return rows


def _cell(name, entry, interval=True):
    return " ".join(filter(None, (_value(name, entry), _interval(name, entry) if interval else "")))


def _threshold_sentences(result):
    sentences = []
    for protocol, title in _PROTOCOL_TITLES.items():
        entry = result["threshold"][protocol]
        name = title.capitalize()
        if entry["value"] is None:
            sentences.append(f"{name}: {entry.get('reason', 'not available')}.")
            continue
        checksum = f", data checksum {entry['data_checksum']}" if entry.get("data_checksum") else ""
        sentences.append(
            f"{name}: {entry['value']:.5f}, the {entry['rule']}, over {entry['num_images']} images of the "
            f"{entry['split']} split{checksum}."
        )
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
    return (
        f"Evaluation of {method} on the {result['split']['name']} split: how well a map learned from image-level "
        "labels alone marks the pixels that disease has changed, and how well images are told apart. d is the "
        "generated healthy image a_h minus the input r; GT is the true healthy image minus the diseased one; (var) is "
        "the mean over images of the pixel variance of the difference. In the authors' protocol each image is min-max "
        "scaled before the difference; in image units nothing is scaled. Brackets hold 95 % bootstrap intervals over "
        f"images.{saliency}"
    )


def _provenance(about):
    """Rows (title, text) of what is plain, and (title, dict) of what is nested."""
    about = _plain(about)
    flat = [(title, str(about.get(key) or "not recorded")) for key, title in _ABOUT_TITLES.items() if key != "command"]
    flat += [
        (key, str(value))
        for key, value in about.items()
        if key not in _ABOUT_TITLES and key not in ("config", "versions")
    ]
    return flat, [(key.capitalize(), about[key]) for key in ("versions", "config") if about.get(key)]


def _markdown(run_dir, result, figures, about):
    def table(rows):
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        marks = ["---"] + ["---:"] * (len(rows[0]) - 1)
        return ["| " + " | ".join(row) + " |" for row in (escaped[0], marks, *escaped[1:])]

    flat, nested = _provenance(about)
    command = str(about.get("command") or "not recorded")
    lines = ["# Evaluation report", "", _what_this_is(result, about), "", "## Result", "", _sentence(result), ""]
    lines += [*table(_table_1(result)), "", *table(_table_2(result)), "", PAPER_NOTE, ""]
    lines += [*(f"- {label}: {text}" for label, text in _reasons(result)), ""]
    if figures:
        lines += ["## Figures", ""]
    for figure in figures:
        lines += [f"### {figure.title}", "", f"![{figure.alt}]({_relative(run_dir, figure.path)})", ""]
        lines += [figure.caption.replace("|", "\\|"), ""]
    lines += ["## How the threshold was chosen", "", *(f"- {text}" for text in _threshold_sentences(result)), ""]
    lines += ["## Limits", "", *(f"- {text}" for text in _LIMITS), ""]
    lines += ["## Run it again", "", "```sh", command, "```", "", *table([["What", "Value"], *flat]), ""]
    for title, values in nested:
        rows = [["Name", "Value"], *([key, str(value)] for key, value in values.items())]
        lines += [f"### {title}", "", *table(rows), ""]
    return "\n".join(line for line in lines)


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5b5f66; --line: #d9dce1; --page: #ffffff; --card: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a4a9b1; --line: #3a3d43; --page: #17181b; --card: #222429; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.result { background: var(--card); border-left: .3rem solid #0571b0; border-radius: .3rem; padding: .8rem 1rem;
  font-size: 1.05rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .facts td { text-align: left; }
tbody th { font-weight: 500; }
.scores th:first-child { position: sticky; left: 0; background: var(--page); max-width: 9.5rem; }
.scores td { white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; }
td.own { font-weight: 600; }
td small { display: block; color: var(--soft); font-weight: 400; }
.facts td { overflow-wrap: anywhere; }
.facts th { width: 38%; }
figure { margin: 1.2rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; padding: .4rem; background: #fff;
  border: 1px solid var(--line); border-radius: .4rem; }
figure h3 { margin: 0 0 .4rem; font-size: 1.02rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: .3rem; overflow-x: auto; font-size: .85rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
"""


def _html(result, figures, about):
    esc = html.escape
    flat, nested = _provenance(about)
    command = str(about.get("command") or "not recorded")
    method = str(about.get("method") or "")
    title = f"Evaluation report: {method}" if method else "Evaluation report"

    def scores(rows, caption, own_columns):
        head = "".join(f'<th scope="col">{esc(cell)}</th>' for cell in ["Metric", *rows[0][1:]])
        body = []
        for row in rows[1:]:
            cells = []
            for column, cell in enumerate(row[1:], start=1):
                value, bracket, interval = cell.partition(" [")
                small = f"<small>{esc('[' + interval)}</small>" if bracket else ""
                own = ' class="own"' if column in own_columns else ""
                cells.append(f"<td{own}>{esc(value)}{small}</td>")
            body.append(f'<tr><th scope="row">{esc(row[0])}</th>{"".join(cells)}</tr>')
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table class="scores">'
            f"<caption>{esc(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def facts(pairs):
        rows = (f'<tr><th scope="row">{esc(str(key))}</th><td>{esc(str(value))}</td></tr>' for key, value in pairs)
        return f'<div class="scroll"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'

    def bullets(texts):
        return "<ul>" + "".join(f"<li>{esc(text)}</li>" for text in texts) + "</ul>"

    def picture(figure):
        data = base64.b64encode(Path(figure.path).read_bytes()).decode()
        return (
            f'<figure><h3>{esc(figure.title)}</h3><img alt="{esc(figure.alt)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{esc(figure.caption)}</figcaption></figure>"
        )

    reasons = [f"{label}: {text}" for label, text in _reasons(result)]
    sections = [
        f"<h1>{esc(title)}</h1>",
        f"<p>{esc(_what_this_is(result, about))}</p>",
        "<h2>Result</h2>",
        f'<p class="result">{esc(_sentence(result))}</p>',
        scores(_table_1(result), "Table 1: maps against the ground truth", own_columns=(1, 3)),
        scores(_table_2(result), "Table 2: healthy or diseased, by image", own_columns=(1,)),
        f'<p class="soft">{esc(PAPER_NOTE)}</p>',
        bullets(reasons) if reasons else "",
        "<h2>Figures</h2>" if figures else "",
        *(picture(figure) for figure in figures),
        "<h2>How the threshold was chosen</h2>",
        bullets(_threshold_sentences(result)),
        "<h2>Limits</h2>",
        bullets(_LIMITS),
        "<h2>Run it again</h2>",
        f"<pre><code>{esc(command)}</code></pre>",
        facts(flat),
        *(f"<details><summary>{esc(name)}</summary>{facts(values.items())}</details>" for name, values in nested),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{esc(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )
