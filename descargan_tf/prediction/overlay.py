"""A map in colour over its image, on one scale for all."""

import numpy as np

SCALE = 1.0  # |d| and |GT| at which a colour is full; the paper's colour bars end there too (Figures 4 and 5)
POSITIVE_COLOUR = (202, 0, 32)  # the healthy image is brighter than the input
NEGATIVE_COLOUR = (5, 113, 176)  # the healthy image is darker


def overlay(image, anomaly_map, scale=SCALE):
    """Lay a signed map in colour over a gray image; the colour is opaque from |map| = scale on.

    Args:
        image: [H, W] in [-1, 1].
        anomaly_map: [H, W] signed, healthy - input.
        scale: positive, in the map's units.

    Returns:
        [H, W, 3] uint8; red where healthy is brighter, blue where it is darker, the gray image where the map is 0.
    """
    image, anomaly_map = np.asarray(image, np.float64), np.asarray(anomaly_map, np.float64)
    if image.ndim != 2 or image.shape != anomaly_map.shape:
        raise ValueError(f"expected two arrays [H, W] of one shape, got {image.shape} and {anomaly_map.shape}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    gray = np.clip((image + 1) * 127.5, 0, 255)[..., None]
    opacity = np.clip(np.abs(anomaly_map) / scale, 0, 1)[..., None]
    colour = np.where(anomaly_map[..., None] > 0, POSITIVE_COLOUR, NEGATIVE_COLOUR)
    return np.rint(gray + opacity * (colour - gray)).astype(np.uint8)
