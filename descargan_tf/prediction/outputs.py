"""A prediction by the names that programs see: a SavedModel's outputs, other engines', the columns of a table."""

from typing import Any

from descargan_tf.types import DISEASED, Prediction


def named_outputs(prediction: Prediction) -> dict[str, Any]:
    """`anomaly_map`, `healthy_image`, `anomaly_score` and `disease_probability`, without those that a method has not.

    Arrays of any library; `predicted_class` is whether the probability is above `DECISION`, of the type that each asks.
    """
    outputs = prediction._asdict()
    probabilities = outputs.pop("class_probabilities")
    outputs["disease_probability"] = None if probabilities is None else probabilities[:, DISEASED]
    return {name: value for name, value in outputs.items() if value is not None}
