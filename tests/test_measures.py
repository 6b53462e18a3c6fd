"""Names of measures are written once; what reads them finds them in reports."""

import ast
import collections
import functools
from pathlib import Path

import numpy as np
import pytest

from descargan_tf.evaluation import evaluator
from descargan_tf.evaluation.paper import PAPER
from descargan_tf.measures import HEADLINE, MEASURES, OF_GROUND_TRUTH, OF_IMAGES, PROTOCOLS, TABLE_1, TABLE_2
from descargan_tf.types import DISEASED, HEALTHY, MASK, Prediction, Split

ROOT = Path(__file__).parents[1]


def test_every_measure_is_in_a_table_and_of_one_kind():
    assert {*TABLE_1, *TABLE_2} == set(MEASURES)
    assert {*OF_GROUND_TRUTH, *OF_IMAGES, "mse_healthy"} == set(MEASURES)
    assert HEADLINE in PROTOCOLS
    for printed in PAPER.values():
        assert set(printed.table_1) <= set(TABLE_1)
        assert set(printed.table_2) <= set(TABLE_2)


def test_a_report_has_every_measure_and_its_column():
    labels = np.repeat([HEALTHY, DISEASED], 2).astype(np.int32)
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 16, 16, 1)).astype(np.float32)
    truth = np.zeros_like(images)
    truth[2:, 4:8, 4:8] = 0.4
    signed = Split(images, labels, truth, ["a", "b", "c", "d"])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    prediction = Prediction(truth, images + truth, np.abs(truth).mean((1, 2, 3)), probabilities)
    for split in (signed, signed._replace(ground_truth=(truth > 0).astype(np.float32), ground_truth_kind=MASK)):
        thresholds = evaluator.calibrate(split, prediction=prediction)
        result = evaluator.evaluate_split(prediction, split, thresholds, 0)
        assert list(result["metrics"]) == list(PROTOCOLS)
        for name, measure in MEASURES.items():
            if measure.of_kind == MASK != split.ground_truth_kind:
                assert name not in result["metrics"][HEADLINE]
                continue
            is_known = measure.of_kind in (None, split.ground_truth_kind)
            assert (result["metrics"][HEADLINE][name]["mean"] is not None) == is_known, name
            for _, prefix in PROTOCOLS.values() if name in TABLE_1 else [("", "")]:
                assert measure.column is None or prefix + measure.column in result["per_image"][0], name


@functools.cache
def strings():
    """The files that each of the program's strings stands in."""
    found = collections.defaultdict(set)
    for folder in ("descargan_tf", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant):
                    found[node.value].add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("title", [noun.title for nouns in (MEASURES, PROTOCOLS) for noun in nouns.values()])
def test_titles_are_written_in_one_file(title):
    """As a whole string: a sentence may speak of them."""
    found = strings()[title]
    # Beginnings of sentences that report.py says of accuracy and Dice in words of its own.
    assert found - {"descargan_tf/evaluation/report.py"} <= {"descargan_tf/measures.py"}
    assert "descargan_tf/measures.py" in found
