"""What the paper prints in its two tables, by method: data, nothing is computed here.

Table 1 is of the synthetic images at 256x256, Table 2 of CheXpert. (var) is printed in brackets, and as printed here.
A method that is not here has no printed numbers.
"""

from typing import NamedTuple


class Printed(NamedTuple):
    """One method's rows; a metric that the paper marks with a cross is not there."""

    label: str
    table_1: dict[str, str]
    table_2: dict[str, str]


OWN_ROW = "descargan"  # the paper's own method, with which a single run is compared

PAPER = {
    "stargan": Printed(
        "StarGAN",
        {
            "dice": "0.710",
            "auroc_pixel": "0.962",
            "mse_d_gt": "0.0229 (0.128)",
            "ssim": "0.888",
            "mse_healthy": "0.0025 (0.002)",
        },
        {"accuracy": "0.853", "kappa": "0.705", "auroc_image": "0.923", "mse_healthy": "0.0534 (0.095)"},
    ),
    "fpgan": Printed(
        "FP-GAN",
        {
            "dice": "0.766",
            "auroc_pixel": "0.975",
            "mse_d_gt": "0.0160 (0.004)",
            "ssim": "0.917",
            "mse_healthy": "0.0027 (0.003)",
        },
        {"accuracy": "0.875", "kappa": "0.750", "auroc_image": "0.939", "mse_healthy": "0.0060 (0.007)"},
    ),
    "vagan": Printed(
        "VAGAN",
        {
            "dice": "0.442",
            "auroc_pixel": "0.954",
            "mse_d_gt": "0.1321 (0.132)",
            "ssim": "0.869",
            "mse_healthy": "0.0036 (0.002)",
        },
        {"mse_healthy": "0.0638 (0.065)"},
    ),
    "vae": Printed(
        "VAE",
        {
            "dice": "0.288",
            "auroc_pixel": "0.809",
            "mse_d_gt": "0.0734 (0.071)",
            "ssim": "0.668",
            "mse_healthy": "0.0316 (0.031)",
        },
        {"mse_healthy": "0.0231 (0.030)"},
    ),
    "densenet169": Printed("DenseNet169", {}, {"accuracy": "0.893", "kappa": "0.785", "auroc_image": "0.951"}),
    "dcls": Printed("D_cls", {}, {"accuracy": "0.890", "kappa": "0.780", "auroc_image": "0.949"}),
    "descargan": Printed(
        "DeScarGAN",
        {
            "dice": "0.853",
            "auroc_pixel": "0.988",
            "mse_d_gt": "0.0086 (0.002)",
            "ssim": "0.954",
            "mse_healthy": "0.0018 (0.001)",
        },
        {"accuracy": "0.898", "kappa": "0.795", "auroc_image": "0.953", "mse_healthy": "0.0035 (0.003)"},
    ),
}
