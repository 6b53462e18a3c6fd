"""An overlay as a DICOM file for the source's own study: drawn on the source's pixels, with a warning burned in."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from descargan_tf.data.dicom_files import is_taken_for_dicom, read_dicom
from descargan_tf.data.images import Scaling
from descargan_tf.data.secondary_capture import SecondaryCaptures
from descargan_tf.errors import UserError
from descargan_tf.prediction.overlay import SCALE, overlay
from descargan_tf.preparation.fitting import fit, unfit

WARNING = "DERIVED - NOT FOR DIAGNOSIS"

_LAYOUTS = (WARNING, "DERIVED -\nNOT FOR DIAGNOSIS", "DERIVED -\nNOT FOR\nDIAGNOSIS")
_SMALLEST = 10  # pixels of an em that can still be read
_WIDTH_IN_EMS = 28  # of an image: the words then take half of it
_ROWS = 256  # drawn at a time: a large radiograph's colours as floats would take gigabytes


class DicomOverlays:
    """The overlays of one run."""

    def __init__(self, how: str, captures: SecondaryCaptures, scaling: Scaling | None = None):
        """Begin a run.

        Args:
            how: what --fit made of the images that the model was trained on.
            captures: what the files are.
            scaling: with which DICOM files are read, see `read_dicom`.
        """
        self._how, self._captures, self._scaling = how, captures, scaling

    def takes(self, file: Path) -> bool:
        """Whether predict reads a file as DICOM."""
        return is_taken_for_dicom(file)

    def of(self, file: Path, anomaly_map: np.ndarray) -> Callable[[BinaryIO], None]:
        """What writes the overlay of a file.

        Raises:
            UserError: naming the file, if it cannot be read or lacks what places it in a study.
        """
        picture, is_on_its_grid = draw(file, anomaly_map, self._how, self._scaling)
        return self._captures.of(file, picture, is_on_its_grid)


def draw(file: Path, anomaly_map: np.ndarray, how: str, scaling: Scaling | None = None) -> tuple[np.ndarray, bool]:
    """Lay a map over a DICOM image, with WARNING burned in at the middle of the upper edge.

    Drawn on the source's own pixels, so that a viewer can lay both on each other and measure in both: `unfit` takes the
    map back there. Only where the source is so small that the words would not fit, it is the model's view of it.

    Args:
        file: the source.
        anomaly_map: [size, size] of the fitted image, in the network's units.
        how: as it was fitted.
        scaling: with which the file was read.

    Returns:
        [H, W, 3] uint8, and whether these are the source's own pixels.

    Raises:
        UserError: names the file.
    """
    values, low, high = read_dicom(file, scaling)
    is_on_its_grid = _lettering(*values.shape) is not None
    if is_on_its_grid:
        anomaly_map = unfit(anomaly_map, *values.shape, how)
    else:
        values = fit(values, anomaly_map.shape[0], how, background=low)
    picture = np.empty((*values.shape, 3), np.uint8)
    for top in range(0, len(values), _ROWS):
        rows = slice(top, top + _ROWS)
        image = (values[rows].astype(np.float64) - low) * (2 / (high - low)) - 1
        picture[rows] = overlay(image, anomaly_map[rows], SCALE)
    burn_in(picture)
    return picture, is_on_its_grid


def burn_in(picture: np.ndarray) -> None:
    """Write WARNING into a picture [H, W, 3] uint8, in white with a black edge.

    Raises:
        UserError: the picture is too small for it, which one of 64 x 64 pixels is not.
    """
    lettering = _lettering(*picture.shape[:2])
    if lettering is None:
        raise UserError(f"{picture.shape[0]}x{picture.shape[1]} pixels are too small for the words {WARNING}")
    text, style, (left, top, right, bottom) = lettering
    band = Image.fromarray(picture[: bottom - top + 1])
    place = ((picture.shape[1] - (right - left)) // 2 - left, -top)
    ImageDraw.Draw(band).multiline_text(place, text, "white", stroke_fill="black", **style)
    picture[: bottom - top + 1] = np.asarray(band)


def _lettering(height, width):
    """The warning's lines, how they are drawn and their box; None where they do not fit."""
    size = max(_SMALLEST, min(width // _WIDTH_IN_EMS, height // 8))
    style = {"font": ImageFont.load_default(size), "stroke_width": max(1, size // 10), "align": "center"}
    for text in _LAYOUTS:
        measured = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, **style)
        left, top, right, bottom = (*map(math.floor, measured[:2]), *map(math.ceil, measured[2:]))
        if right - left <= width and bottom - top <= height * 2 // 3:
            return text, style, (left, top, right, bottom)
    return None
