"""From the finished runs of a benchmark to the entries of Tables 1 and 2: arithmetic alone, plain Python out.

A row is a method, or whatever a name of the benchmark stands for; its runs differ in the seed. All runs answered for
the same test images. Three things are said of a metric, and they are not the same:

* the mean over the seeds, and the spread between them: their sample standard deviation, None for a single seed;
* the bootstrap interval of that mean over the test images, the seeds as they are;
* the difference to the best row with its interval and p, from the same resamples of the images for both rows (paired).

A resample draws each class's images by themselves, as many as there are, with replacement.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf import measures
from descargan_tf.errors import UserError
from descargan_tf.evaluation import metrics
from descargan_tf.evaluation.evaluator import LEVEL, NUM_RESAMPLES
from descargan_tf.measures import HEADLINE, MEASURES, OF_IMAGES, PROTOCOLS
from descargan_tf.types import DISEASED, HEALTHY

_OLDER = {"mean": None, "reason": "not available: evaluated before it was measured; evaluate that run again"}
SIGNIFICANT = 0.05  # p below which a difference is said to be one


# What differs between images can be resampled; of pooled pixels there is one number.
TABLE_1 = tuple(name for name in measures.TABLE_1 if MEASURES[name].column)
TABLE_2 = tuple(name for name in measures.TABLE_2 if name not in measures.TABLE_1)


class Run(NamedTuple):
    """One evaluated run, as `evaluate` left it."""

    seed: int
    report: dict  # of report.json
    names: list[str]  # of the test images
    labels: np.ndarray  # [N]
    columns: dict[str, np.ndarray]  # of per_image.csv, each [N] float64, NaN where it is empty


def read_run(run_dir: Path, seed: int) -> Run:
    """What `report.json` and `per_image.csv` of a run folder say.

    Raises:
        UserError: they are not there or damaged.
    """
    try:
        report = json.loads((run_dir / "report.json").read_text())
        with open(run_dir / "per_image.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {
            name: np.array([float(row[name] or "nan") for row in rows], np.float64)
            for name in rows[0]
            if name not in ("name", "label")
        }
        return Run(seed, report, [row["name"] for row in rows], np.array([int(row["label"]) for row in rows]), columns)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"the report in {run_dir} cannot be read ({error}): evaluate that run again.") from error


def make_tables(rows: dict[str, Sequence[Run]], seed: int = 0) -> dict:
    """Entries of both tables for every row that has a run, and what separates the rows.

    Args:
        rows: runs by name.
        seed: of the bootstrap.

    Returns:
        `table_1`: protocol -> row -> metric -> entry; `table_2`: row -> metric -> entry; `zero_map`: protocol -> metric
        -> entry of an all-zero map; `differences`: protocol, or "images" for Table 2, -> metric -> {best, others: row
        -> {difference, ci95, p}}; `bootstrap`: how it was drawn. An entry is {mean, spread, values, ci95, var}; where
        a metric cannot be known its mean is None and `reason` says why; `note` says which images were left out, if any.

    Raises:
        UserError: two runs answered for different images.
    """
    rows = {name: runs for name, runs in rows.items() if runs}
    everything = [run for runs in rows.values() for run in runs]
    bootstrap = {"num_resamples": NUM_RESAMPLES, "level": LEVEL, "seed": seed, "unit": "image, paired between rows"}
    tables = {"table_1": {}, "table_2": {}, "zero_map": {}, "differences": {}, "bootstrap": bootstrap}
    if not everything:
        return tables
    first = everything[0]
    for run in everything[1:]:
        if run.names != first.names or run.report.get("data_digest") != first.report.get("data_digest"):
            raise UserError("the runs of this benchmark answered for different test images: no table can hold both.")
    weights = resample(first.labels, seed, NUM_RESAMPLES)
    for protocol, (_, prefix) in PROTOCOLS.items():
        found = {
            row: {name: _entry(name, prefix, protocol, runs, weights) for name in TABLE_1} for row, runs in rows.items()
        }
        tables["table_1"][protocol], tables["differences"][protocol] = _compared(found, TABLE_1)
        tables["zero_map"][protocol] = first.report["baseline_zero_map"][protocol]
    found = {row: {name: _entry(name, "", HEADLINE, runs, weights) for name in TABLE_2} for row, runs in rows.items()}
    tables["table_2"], tables["differences"]["images"] = _compared(found, TABLE_2)
    return tables


def budget(runs: Sequence[Run]) -> dict:
    """What a row's runs had and took: rounds and images are those of each run, `seconds` of training one per seed."""
    report = runs[0].report
    training = [run.report["training"] for run in runs]
    return {
        "rounds": training[0]["rounds"],
        "images": training[0]["images"],
        "images_per_round": training[0]["images_per_round"],
        "seconds": [part["seconds"] for part in training],
        "checkpoints": [run.report["checkpoint"] for run in runs],
        "num_parameters": report["num_parameters"],
    }


def resample(labels, seed, num_resamples):
    """How often each of the images [N] is drawn in each resample: [R, N] float32."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((num_resamples, len(labels)), np.float32)
    for label in (HEALTHY, DISEASED):
        chosen = np.flatnonzero(np.asarray(labels) == label)
        if chosen.size:
            even = np.full(chosen.size, 1 / chosen.size)
            weights[:, chosen] = rng.multinomial(chosen.size, even, size=num_resamples)
    return weights


def statistic(name, values, labels, weights):
    """A metric of images [N] that count as often as each row of `weights` [R, N] says: [R].

    The mean for a metric of single images, over those that have a value; for those of a whole split as `metrics` has
    them.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if name in OF_IMAGES:
        return metrics.image_level(values, labels, weights)["auroc_image" if name == "auroc_score" else name]
    known = np.isfinite(values)
    return (weights[:, known] @ values[known]) / weights[:, known].sum(axis=1)


def paired_difference(resampled, best_resampled, difference):
    """A row's difference to the best one from statistics [R] of the same resamples: its interval and two-sided p.

    p is twice the share of resamples in which the difference has the other sign or is none, the observed one counted
    in; a bootstrap of so many cannot say less than 2 / (R + 1).
    """
    differences = np.asarray(resampled) - np.asarray(best_resampled)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    other_side = min(np.sum(differences <= 0), np.sum(differences >= 0))
    p = min(1.0, 2 * (int(other_side) + 1) / (differences.size + 1))
    return {"difference": float(difference), "ci95": [float(low), float(high)], "p": float(p)}


def _entry(name, prefix, protocol, runs, weights):
    """An entry with the statistics of its resamples under `resampled`, which `_compared` takes out again."""
    entries = [run.report["metrics"][protocol].get(name, _OLDER) for run in runs]
    for entry in entries:
        if entry["mean"] is None:
            return {"mean": None, "spread": None, "values": [], "ci95": None, "var": None, "reason": entry["reason"]}
    values = [entry["mean"] for entry in entries]
    resampled = np.mean([_resampled(name, prefix, run, weights) for run in runs], axis=0)
    variances = [entry["var"] for entry in entries]
    notes = dict.fromkeys(entry["note"] for entry in entries if entry.get("note"))
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": [float(value) for value in values],
        "ci95": [float(x) for x in np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])],
        "var": None if None in variances else float(np.mean(variances)),
        "resampled": resampled,
        **({"note": "; ".join(notes)} if notes else {}),
    }


def _resampled(name, prefix, run, weights):
    measure = MEASURES[name]
    of_pixels = measure.label is not None
    values = run.columns[prefix + measure.column if of_pixels else measure.column]
    chosen = run.labels == measure.label if of_pixels else np.ones(len(values), bool)
    return statistic(name, values[chosen], run.labels[chosen], weights[:, chosen])


def _compared(found, table):
    """The entries without their resamples, and the differences to the best row of each metric."""
    differences = {}
    for name in table:
        known = {row: entries[name] for row, entries in found.items() if entries[name]["mean"] is not None}
        resampled = {row: entry.pop("resampled") for row, entry in known.items()}
        if len(known) < 2:
            continue
        best = (min if MEASURES[name].smaller_is_better else max)(known, key=lambda row: known[row]["mean"])
        others = {
            row: paired_difference(resampled[row], resampled[best], entry["mean"] - known[best]["mean"])
            for row, entry in known.items()
            if row != best
        }
        differences[name] = {"best": best, "others": others}
    return found, differences
