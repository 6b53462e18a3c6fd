"""What is measured, by the names that reports use: titles, tables, directions, protocols. Nothing is computed here."""

from typing import NamedTuple

from descargan_tf.types import DIFFERENCE, DISEASED, HEALTHY, MASK


class Measure(NamedTuple):
    """One measure of a split."""

    title: str  # " (var)" at its end: the variance of the difference stands beside it, in brackets
    column: str | None  # of per_image.csv, that it follows from; None: not of single images, or of masks alone
    label: int | None = None  # of the images that it is taken from; None for both
    smaller_is_better: bool = False
    of_kind: str | None = None  # of ground truth, that it can be taken against; None for any

    @property
    def short_title(self) -> str:
        """Without what is said of the brackets."""
        return self.title.removesuffix(" (var)")


MEASURES = {
    "dice": Measure("Dice", "dice", DISEASED),
    "auroc_pixel": Measure("AUROC, pixels", "auroc", DISEASED),
    "mse_d_gt": Measure("MSE(d, GT) (var)", "mse", DISEASED, smaller_is_better=True, of_kind=DIFFERENCE),
    "ssim": Measure("SSIM", "ssim", DISEASED, of_kind=DIFFERENCE),
    "mse_healthy": Measure("MSE(r_h, a_h) (var)", "mse", HEALTHY, smaller_is_better=True),
    "dice_otsu": Measure("Dice, Otsu's threshold of |d|", None, DISEASED, of_kind=MASK),
    "dice_pooled": Measure("Dice, all pixels pooled", None, DISEASED),
    "auroc_pixel_pooled": Measure("AUROC, all pixels pooled", None, DISEASED),
    "accuracy": Measure("Accuracy", "probability"),
    "kappa": Measure("Cohen's kappa", "probability"),
    "auroc_image": Measure("AUROC, images", "probability"),
    "auroc_score": Measure("AUROC, images, by anomaly score", "score"),
    "brier": Measure("Brier score", "probability", smaller_is_better=True),
}
# As the paper has them; the change of healthy images is in both.
TABLE_1 = ("dice", "auroc_pixel", "mse_d_gt", "ssim", "mse_healthy", "dice_otsu", "dice_pooled", "auroc_pixel_pooled")
TABLE_2 = ("accuracy", "kappa", "auroc_image", "auroc_score", "brier", "mse_healthy")
OF_PROBABILITIES = ("accuracy", "kappa", "auroc_image", "brier")
OF_IMAGES = (*OF_PROBABILITIES, "auroc_score")
OF_GROUND_TRUTH = tuple(name for name in TABLE_1 if name != "mse_healthy")


class Protocol(NamedTuple):
    """In which units maps and ground truth are compared; `evaluation.metrics` says how."""

    title: str
    prefix: str  # of its columns in per_image.csv


PROTOCOLS = {
    "image_units": Protocol("image units", ""),
    "authors": Protocol("authors' protocol", "authors_"),
}
HEADLINE = "image_units"
