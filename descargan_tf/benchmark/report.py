"""A benchmark's tables.md, tables.tex, tables.csv, tables.json and report.html, from what `tables` gives."""

import csv
import html
import io
from pathlib import Path
from typing import NamedTuple

from descargan_tf.benchmark.tables import SIGNIFICANT, TABLE_1, TABLE_2
from descargan_tf.evaluation import pages
from descargan_tf.evaluation.paper import PAPER
from descargan_tf.evaluation.report import threshold_sentences
from descargan_tf.files import write_atomically
from descargan_tf.measures import HEADLINE, MEASURES, PROTOCOLS

SCHEMA = 1
ZERO_MAP = "all-zero map"
_AS_PRINTED = "as printed"
_DAGGER = {"best": "", "same": " †", "": ""}
_NOTES = (
    "Cells: mean over the seeds ± their sample standard deviation (none for one seed), (var) the mean over images of "
    "the pixel variance of the difference, and in brackets the 95 % bootstrap interval over the test images.",
    f"Bold: the best row. †: not distinguishable from it, p >= {SIGNIFICANT} in a paired bootstrap over the test "
    "images (two-sided, not corrected for the number of comparisons). Neither this nor the brackets holds what another "
    "seed would change; the spread does, as far as there are seeds.",
    "As printed: the paper's own numbers. Table 1 there is 256x256, the authors' data and program; Table 2 there is "
    "CheXpert, other images altogether. They are not directly comparable.",
    "Saliency: the method only classifies; its map says where the classifier sees disease, has no image units and a "
    "threshold of its own.",
)
_CHOICES = (
    "Nothing was chosen on the test images.",
    "The checkpoint that is measured is the best of a run's validations by a rule that sees the validation images and "
    "their labels alone, no ground truth (descargan_tf/evaluation/validation.py).",
    "A saliency map has no image units, and a mask says nothing of them: the threshold of a map is then the one with "
    "the largest mean Dice on the validation split.",
    "Learning rates, weights of losses and widths are those of the flagfiles, which say where each is from.",
)
_LIMITS = (
    "Research software. It is not a medical device and must not guide the care of a patient.",
    "An equal number of training images is not an equal number of updates, of operations or of minutes; the budget "
    "says what each had.",
    "A short training says little of a long one: methods that learn slowly are seen early in theirs.",
)


class Row(NamedTuple):
    """What a benchmark knows of a row beside its numbers."""

    name: str
    method: str
    flagfile: str
    saliency: str | None  # the kind, where its map is one
    seeds: tuple[int, ...]  # with results
    missing: dict[int, str]  # seed -> why it has none
    budget: dict | None  # of `tables.budget`; None without results

    @property
    def title(self):
        """What the paper calls the method where the row is named after one."""
        return PAPER[self.name].label if self.name in PAPER else self.name

    @property
    def label(self):
        """The same, marked where the map is a saliency."""
        return f"{self.title} ({self.saliency} saliency)" if self.saliency else self.title


class _Cell(NamedTuple):
    value: str
    interval: str = ""
    printed: str = ""
    mark: str = ""  # "best", "same" or nothing


class _Table(NamedTuple):
    title: str
    heads: list[str]
    rows: list[tuple[str, list[_Cell]]]


def write(folder: Path, rows: list[Row], tables: dict, figures: list, about: dict) -> list[Path]:
    """Write the five files, each whole or not at all.

    Args:
        folder: of the benchmark.
        rows: in the order of the tables, those without results too.
        tables: of `tables.make_tables`.
        figures: of `figures.draw_comparison`; linked from tables.md, held by report.html.
        about: `title`, `command`, `threshold` (of a report), and whatever else is to be known: `facts`, a dict.
    """
    laid_out = _lay_out(rows, tables)
    contents = {
        "tables.md": _markdown(folder, rows, laid_out, tables, figures, about),
        "tables.tex": _latex(laid_out),
        "tables.csv": _csv(rows, tables),
        "tables.json": pages.json_text(
            {
                "schema": SCHEMA,
                "rows": [{**row._asdict(), "label": row.label} for row in rows],
                **tables,
                "paper": {row.name: PAPER[row.name]._asdict() for row in rows if row.name in PAPER},
                **about,
            }
        ),
        "report.html": _html(rows, laid_out, tables, figures, about),
    }
    return [write_atomically(folder / name, text.encode(errors="backslashreplace")) for name, text in contents.items()]


# ---- what the tables say


def _lay_out(rows, tables):
    found = []
    for protocol, (title, _) in PROTOCOLS.items():
        if protocol in tables["table_1"]:
            zero = tables["zero_map"][protocol]
            args = (rows, tables["table_1"][protocol], tables["differences"][protocol], TABLE_1, "table_1")
            found.append(_Table(f"Table 1, {title}", *_cells(*args, zero)))
    if tables["table_2"]:
        # As the paper, Table 2 has the change of healthy images too; the same numbers as in Table 1.
        names = [*TABLE_2, "mse_healthy"]
        entries = {
            row: {**entries, "mse_healthy": tables["table_1"][HEADLINE][row]["mse_healthy"]}
            for row, entries in tables["table_2"].items()
        }
        differences = {**tables["differences"]["images"]}
        healthy = tables["differences"][HEADLINE].get("mse_healthy")
        differences |= {"mse_healthy": healthy} if healthy else {}
        found.append(_Table("Table 2", *_cells(rows, entries, differences, names, "table_2")))
    return found


def _cells(rows, entries, differences, names, printed, zero=None):
    body = []
    for row in rows:
        if row.name not in entries:
            continue
        from_paper = getattr(PAPER[row.name], printed) if row.name in PAPER else {}
        cells = []
        for name in names:
            mark = _mark(row.name, differences.get(name))
            cells.append(_cell(name, entries[row.name][name], from_paper.get(name, ""), mark))
        body.append((row.label, cells))
    if zero:
        body.append((ZERO_MAP, [_cell(name, zero[name], interval=False) for name in names]))
    return [MEASURES[name].title for name in names], body


def _cell(name, entry, printed="", mark="", interval=True):
    if entry["mean"] is None:
        return _Cell("n/a", "", printed)
    spread = entry.get("spread")
    value = pages.number(name, entry["mean"]) + ("" if spread is None else f" ± {pages.number(name, spread)}")
    if entry["var"] is not None:
        value += f" ({pages.number(name, entry['var'])})"
    bounds = "[{}, {}]".format(*(pages.number(name, x) for x in entry["ci95"])) if interval and entry["ci95"] else ""
    return _Cell(value, bounds, printed, mark)


def _mark(row, difference):
    if difference is None:
        return ""
    if difference["best"] == row:
        return "best"
    other = difference["others"].get(row)
    return "same" if other and other["p"] >= SIGNIFICANT else ""


def _difference_rows(rows, tables):
    """Head and rows of the table of differences to the best, by protocol."""
    labels = {row.name: row.label for row in rows}
    body = []
    for group, title in {**{key: title for key, (title, _) in PROTOCOLS.items()}, "images": "Table 2"}.items():
        for name, found in tables["differences"].get(group, {}).items():
            for row, other in found["others"].items():
                interval = "[{}, {}]".format(*(pages.number(name, x) for x in other["ci95"]))
                difference = f"{pages.number(name, other['difference'])} {interval}"
                body.append(
                    [f"{MEASURES[name].title}, {title}", labels[found["best"]], labels[row], difference, _p(other["p"])]
                )
    return ["Metric", "Best", "Compared", "Difference", "p"], body


def _p(value):
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _budget_rows(rows):
    head = ["Method", "Images seen", "Rounds", "Images a round", "Parameters", "Training, minutes", "Seeds"]
    body = []
    for row in rows:
        seeds = ", ".join(map(str, row.seeds)) or "none"
        if row.budget is None:
            body.append([row.label, *["n/a"] * 5, seeds])
            continue
        b = row.budget
        parameters = " + ".join(f"{count:,} {name}" for name, count in b["num_parameters"].items())
        minutes = ", ".join("n/a" if seconds is None else f"{seconds / 60:.1f}" for seconds in b["seconds"])
        counts = [f"{b[key]:,}" for key in ("images", "rounds", "images_per_round")]
        body.append([row.label, *counts, parameters, minutes, seeds])
    return head, body


def _missing(rows):
    return [f"{row.title}, seed {seed}: {reason}" for row in rows for seed, reason in row.missing.items()]


def _reasons(rows, tables):
    """Why a cell has no number, or one of fewer images, the rows of one reason together."""
    why = {}
    for by_row in (*tables["table_1"].values(), tables["table_2"]):
        for row in rows:
            for name, entry in by_row.get(row.name, {}).items():
                reason = entry.get("reason") or entry.get("note")
                if reason:
                    heads = why.setdefault(reason, ({}, {}))
                    heads[0][row.label] = heads[1][MEASURES[name].title] = None
    return [f"{', '.join(labels)}: {', '.join(heads)}: {reason}." for reason, (labels, heads) in why.items()]


def _choices(about):
    said = [*_CHOICES]
    if about.get("threshold"):
        said += [f"Threshold, {text}" for text in threshold_sentences({"threshold": about["threshold"]})]
    return said


def _sentence(rows, tables):
    """Who leads, from the numbers alone."""
    labels = {row.name: row.label for row in rows}
    said = []
    for name, found in tables["differences"].get(HEADLINE, {}).items():
        same = [labels[row] for row, other in found["others"].items() if other["p"] >= SIGNIFICANT]
        apart = f" (not distinguishable: {', '.join(same)})" if same else ""
        said.append(f"{MEASURES[name].short_title}: {labels[found['best']]}{apart}")
    text = (
        f"Best in {PROTOCOLS[HEADLINE].title}, by metric: " + "; ".join(said) + "."
        if said
        else "There is nothing to compare yet."
    )
    entries = tables["table_1"].get(HEADLINE, {})
    zero = tables["zero_map"].get(HEADLINE, {}).get("mse_d_gt", {}).get("mean")
    means = {labels[row]: found["mse_d_gt"]["mean"] for row, found in entries.items()}
    worse = [label for label, mean in means.items() if None not in (mean, zero) and mean >= zero]
    return text + (f" Not below the {ZERO_MAP} in MSE(d, GT): {', '.join(worse)}." if worse else "")


# ---- the files


def _markdown(folder, rows, laid_out, tables, figures, about):
    def text(cell):
        value = f"**{cell.value}**" if cell.mark == "best" else cell.value + _DAGGER[cell.mark]
        return f"{value} {cell.interval}".strip()

    lines = [f"# {about['title']}", "", _sentence(rows, tables), ""]
    missing = _missing(rows)
    if missing:
        lines += ["## What is missing", "", *(f"- {reason}" for reason in missing), ""]
    for table in laid_out:
        body = []
        for label, cells in table.rows:
            body.append([label, *(text(cell) for cell in cells)])
            if any(cell.printed for cell in cells):
                body.append([f"*{label.split(' (')[0]}, {_AS_PRINTED}*", *(cell.printed for cell in cells)])
        lines += [f"## {table.title}", "", *pages.markdown_table([["", *table.heads], *body]), ""]
    lines += [*(f"- {note}" for note in (*_NOTES, *_reasons(rows, tables))), ""]
    for title, (head, body) in (("Budget", _budget_rows(rows)), ("Differences", _difference_rows(rows, tables))):
        if body:
            lines += [f"## {title}", "", *pages.markdown_table([head, *body]), ""]
    for figure in figures:
        link = Path(figure.path).relative_to(folder).as_posix()
        lines += [f"## {figure.title}", "", f"![{figure.alt}]({link})", "", figure.caption.replace("|", "\\|"), ""]
    lines += ["## How choices were made", "", *(f"- {choice}" for choice in _choices(about)), ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in _LIMITS), ""]
    lines += ["## Run it again", "", "```sh", about["command"], "```", ""]
    facts = [[str(key), str(value)] for key, value in about["facts"].items()]
    return "\n".join([*lines, *pages.markdown_table([["What", "Value"], *facts]), ""])


_ESCAPES = {"\\": r"\textbackslash{}", "±": r"$\pm$", "†": r"$\dagger$", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}
_ESCAPES |= {"$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text):
    return "".join(_ESCAPES.get(character, character) for character in text)


def _latex(laid_out):
    """Tables for a paper; they need the package booktabs."""

    def text(cell):
        value = _tex(cell.value + _DAGGER[cell.mark])
        value = rf"\textbf{{{value}}}" if cell.mark == "best" else value
        return f"{value} {{\\scriptsize {_tex(cell.interval)}}}" if cell.interval else value

    lines = ["% needs \\usepackage{booktabs}"]
    for table in laid_out:
        lines += [r"\begin{table}", rf"\caption{{{_tex(table.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.heads)}}}", r"\toprule"]
        lines += [" & ".join(["", *map(_tex, table.heads)]) + r" \\", r"\midrule"]
        for label, cells in table.rows:
            lines.append(" & ".join([_tex(label), *map(text, cells)]) + r" \\")
            if any(cell.printed for cell in cells):
                printed = (rf"\textit{{{_tex(cell.printed)}}}" if cell.printed else "" for cell in cells)
                lines.append(" & ".join([rf"\quad \textit{{{_AS_PRINTED}}}", *printed]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


_COLUMNS = ("table", "protocol", "row", "method", "saliency", "metric", "mean", "spread", "num_seeds", "ci95_low")
_COLUMNS += ("ci95_high", "var", "best", "difference", "difference_low", "difference_high", "p", "printed", "reason")


def _csv(rows, tables):
    """One line for each number, so that a spreadsheet can turn it as it likes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    groups = [("table_1", protocol, entries, protocol) for protocol, entries in tables["table_1"].items()]
    groups += [("table_2", "images", tables["table_2"], "images")]
    for table, protocol, by_row, group in groups:
        for row in rows:
            for name, entry in by_row.get(row.name, {}).items():
                found = tables["differences"][group].get(name, {"best": None, "others": {}})
                other = found["others"].get(row.name)
                line = {
                    "table": table,
                    "protocol": protocol,
                    "row": row.name,
                    "method": row.method,
                    "saliency": row.saliency,
                    "metric": name,
                    "mean": entry["mean"],
                    "spread": entry["spread"],
                    "num_seeds": len(entry["values"]),
                    "var": entry["var"],
                    "best": int(found["best"] == row.name),
                    "printed": getattr(PAPER[row.name], table).get(name) if row.name in PAPER else None,
                    "reason": entry.get("reason"),
                }
                if entry["ci95"]:
                    line |= dict(zip(("ci95_low", "ci95_high"), entry["ci95"], strict=True))
                if other:
                    line |= {"difference": other["difference"], "p": other["p"]}
                    line |= dict(zip(("difference_low", "difference_high"), other["ci95"], strict=True))
                writer.writerow({key: "" if value is None else value for key, value in line.items()})
        if table == "table_1":
            for name in TABLE_1:
                entry = tables["zero_map"][protocol][name]
                writer.writerow(
                    {"table": table, "protocol": protocol, "row": ZERO_MAP, "metric": name, "mean": entry["mean"]}
                )
    return text.getvalue()


def _html(rows, laid_out, tables, figures, about):
    esc = html.escape

    def scores(table):
        body = []
        for label, cells in table.rows:
            texts = []
            for cell in cells:
                printed = f"{_AS_PRINTED} {cell.printed}" if cell.printed else ""
                texts.append(
                    pages.ScoreCell([cell.value + _DAGGER[cell.mark], cell.interval, printed], cell.mark == "best")
                )
            body.append([label, *texts])
        return pages.score_table(["Method", *table.heads], body, table.title)

    missing = _missing(rows)
    budget, differences = _budget_rows(rows), _difference_rows(rows, tables)
    sections = [
        f"<h1>{esc(about['title'])}</h1>",
        f'<p class="result">{esc(_sentence(rows, tables))}</p>',
        f"<h2>What is missing</h2>{pages.bullets(missing)}" if missing else "",
        "<h2>Tables</h2>",
        *(scores(table) for table in laid_out),
        f'<div class="soft">{pages.bullets([*_NOTES, *_reasons(rows, tables)])}</div>',
        "<h2>Budget</h2>",
        pages.score_table(*budget, "What every run had and took"),
        "<h2>Figures</h2>" if figures else "",
        *(pages.picture(figure) for figure in figures),
        "<h2>How choices were made</h2>",
        pages.bullets(_choices(about)),
        "<h2>Differences to the best</h2>" if differences[1] else "",
        pages.score_table(*differences, "Difference of means, paired bootstrap") if differences[1] else "",
        "<h2>Limits</h2>",
        pages.bullets(_LIMITS),
        "<h2>Run it again</h2>",
        f"<pre><code>{esc(about['command'])}</code></pre>",
        pages.facts(about["facts"].items()),
    ]
    return pages.page(about["title"], sections)
