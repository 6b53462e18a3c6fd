"""The nouns that pass between the packages. No logic here.

Letters in shapes: B batch, N images of a split, H height, W width, C channels (1), K classes (2).
Images are float32 in [-1, 1]; label 0 is healthy, label 1 is diseased, whatever the folders' alphabetical order.
"""

import dataclasses
from typing import Any, NamedTuple

HEALTHY = 0
DISEASED = 1
CLASS_NAMES = ("healthy", "diseased")
DECISION = 0.5  # disease probability above which an image is called diseased
SPLITS = ("train", "validate", "test")
DRAWN = ("synthetic", "synthetic_chest")  # data sets that are drawn where they are missing
MASK, DIFFERENCE = "mask", "difference"  # kinds of ground truth: which pixels; healthy - diseased, with sign and size


class Batch(NamedTuple):
    """A balanced training batch: as many healthy as diseased images, unpaired."""

    healthy: Any  # [B/2, H, W, 1] float32 in [-1, 1]
    diseased: Any  # [B/2, H, W, 1] float32 in [-1, 1]


class Split(NamedTuple):
    """One split of a data set in memory, in a fixed order: healthy files first, each class by file name."""

    images: Any  # [N, H, W, 1] float32 in [-1, 1]
    labels: Any  # [N] int32, HEALTHY or DISEASED
    ground_truth: Any  # [N, H, W, 1] float32; None where no image has one
    names: Any  # N file names relative to the data folder
    ground_truth_kind: str = DIFFERENCE  # healthy - diseased in the units of `images`; MASK: 0 or 1
    has_ground_truth: Any = None  # [N] bool: where it is known; None for all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One kind of update: which network it trains, and how often in a round."""

    name: str
    trains: str  # a key of Method.networks
    updates: int  # updates per round
    learning_rate: float
    beta_1: float = 0.5  # Adam's; the paper's for DeScarGAN
    beta_2: float = 0.999


class Prediction(NamedTuple):
    """What a method says of B images; None where a method has no such answer."""

    anomaly_map: Any  # [B, H, W, 1] float32, healthy image - input, signed; without one: a saliency in [0, 1]
    healthy_image: Any  # [B, H, W, 1] float32 in [-1, 1]
    anomaly_score: Any  # [B] float32, larger is more diseased
    class_probabilities: Any  # [B, K] float32, columns as CLASS_NAMES


class Validation(NamedTuple):
    """What a validation found."""

    scalars: dict[str, float | None]
    selection: float  # the checkpoint with the largest is the best
    pictures: dict[str, Any]  # name -> [N, H, W, 1 or 3] float32 in [0, 1]
    warnings: tuple[str, ...]
