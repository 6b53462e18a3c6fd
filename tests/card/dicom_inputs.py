"""DICOM files in every transfer syntax that can be written here, and what this project reads of them.

What `tfio.image.decode_dicom_image` gives, found by asking it (tensorflow-io 0.36, whose kernel is DCMTK's
DicomImage): [1, H, W, 1], the values behind the modality rescale and before any window, MONOCHROME1 inverted, and the
whole range that the stored bits can say stretched to 0 .. 2^depth - 1, `depth` being how many bits that range needs.
Without a rescale these are the `values - low` of `read_dicom`; with one, they are multiplied by
2^depth / (high - low + 1) and cut off. DCMTK inverts by a factor of (2^depth - 2) / 2^depth, so that MONOCHROME1 agrees
to a stored step, all else exactly. It cuts off a rescale to whole numbers before it stretches, so fractional slopes are
not compared; it reads no window here, so the answer to a file with one is what is read without it. dtype=float64 takes
every depth, and on_error="strict" tells of a refusal, where "skip" would give nothing.
"""

import itertools
import json

import numpy as np
from dicom_writing import RETIRED, encoded, radiograph, write
from pydicom import uid

from descargan_tf.data.dicom_files import read_dicom

EIGHT = {"8 bit": (np.uint8, 8)}
DEEP = {"10 bit": (np.uint16, 10), "12 bit": (np.uint16, 12), "16 bit": (np.uint16, 16)}
SIGNED = {"signed 8 bit": (np.int8, 8), "signed 12 bit": (np.int16, 12), "signed 16 bit": (np.int16, 16)}
ALL = EIGHT | DEEP | SIGNED
SYNTAXES = {
    uid.ImplicitVRLittleEndian: ALL,
    uid.ExplicitVRLittleEndian: ALL,
    uid.ExplicitVRBigEndian: ALL,
    uid.DeflatedExplicitVRLittleEndian: ALL,
    uid.RLELossless: ALL,
    uid.JPEGBaseline8Bit: EIGHT,
    uid.JPEGExtended12Bit: EIGHT | {"12 bit": (np.uint16, 12)},
    **dict.fromkeys(RETIRED, EIGHT),
    uid.JPEGLossless: ALL,
    uid.JPEGLosslessSV1: ALL,
    uid.JPEG2000Lossless: ALL,
    uid.JPEG2000: ALL,
    uid.JPEGLSLossless: ALL,
    uid.JPEGLSNearLossless: ALL,
    uid.HTJ2KLossless: DEEP,
}
WITH_LOSSES = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *RETIRED)  # whose blocks of noise say nothing
NOT_READ_THERE = {uid.HTJ2KLossless}  # tensorflow-io's DCMTK is older
RESCALES = {"slope 2": ("2", "-100"), "slope -1": ("-1", "100")}


def write_dicom(folder):
    """dicom/<number>.dcm with <number>.npz, and cases.json: the group, name and bound of each."""
    folder = folder / "dicom"
    cases = []

    def add(group, name, pixels, syntax, is_inverted, rules=None, **tags):
        tags["PhotometricInterpretation"] = "MONOCHROME1" if is_inverted else "MONOCHROME2"
        path = folder / f"{len(cases)}.dcm"
        values, low, high = _write_and_read(path, pixels, syntax, tags, rules or {})
        step = abs(float(tags.get("RescaleSlope", 1)))
        np.savez(path.with_suffix(".npz"), values=values, low=low, high=high, step=step)
        cases.append(
            {
                "group": f"{group}, {tags['PhotometricInterpretation']}",
                "name": name,
                # Of 12 bits, the inverse DCTs differ where they round; of 8, both are libjpeg's.
                "bound": is_inverted + (syntax == uid.JPEGExtended12Bit and tags["BitsStored"] == 12),
                "refused": syntax in NOT_READ_THERE,
            }
        )

    for is_inverted in (False, True):
        for syntax, kinds in SYNTAXES.items():
            for name, kind in kinds.items():
                pixels = drawn(*kind) if syntax in WITH_LOSSES else noise(*kind)
                add(syntax.name, name, pixels, syntax, is_inverted, BitsStored=kind[1])
        for name, kind in ALL.items():
            pixels, tags = noise(*kind), {"BitsStored": kind[1]}
            for slope, (factor, offset) in RESCALES.items():
                rescale = {"RescaleSlope": factor, "RescaleIntercept": offset}
                add(f"rescale, {slope}", name, pixels, uid.ExplicitVRLittleEndian, is_inverted, **rescale, **tags)
            window = {"WindowCenter": "100", "WindowWidth": "50"}
            add("window", name, pixels, uid.ExplicitVRLittleEndian, is_inverted, **window, **tags)
        for values in itertools.product(range(1, 8), (0, 3), (0, 5)):
            rules = dict(zip(("predictor", "point_transform", "rows_an_interval"), values, strict=True))
            pixels = noise(np.uint16, 12) >> rules["point_transform"] << rules["point_transform"]
            group = f"{uid.JPEGLossless.name} by its rules"
            add(group, str(rules), pixels, uid.JPEGLossless, is_inverted, rules, BitsStored=12)
        overlaid = noise(np.uint16, 12) | np.uint16(0x7000)
        add("bits above the stored ones", "12 bit", overlaid, uid.ExplicitVRLittleEndian, is_inverted, BitsStored=12)
    (folder / "cases.json").write_text(json.dumps(cases))


def noise(dtype, bits):
    """Every value is likely, the two ends are there."""
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if np.dtype(dtype).kind == "i" else (0, 1 << bits)
    pixels = np.random.default_rng(bits).integers(low, high, (64, 48))
    pixels[0, :2] = low, high - 1
    return pixels.astype(dtype)


def drawn(dtype, bits):
    """Waves from end to end, for what is lossy."""
    rows, columns = np.mgrid[:64, :48]
    return np.rint((0.5 + 0.5 * np.sin(rows / 7 + columns / 9)) * ((1 << bits) - 1)).astype(dtype)


def _write_and_read(path, pixels, syntax, tags, rules):
    """What read_dicom says of a file, before its window."""
    dataset = radiograph(pixels, **tags)
    # Nothing here encodes HTJ2K; OpenJPEG reads a stream of JPEG 2000 under that name, too.
    how = encoded(dataset, uid.JPEG2000Lossless if syntax == uid.HTJ2KLossless else syntax, **rules)
    dataset.file_meta.TransferSyntaxUID = syntax
    write(path, dataset, **how)
    answered = path
    if "WindowCenter" in dataset:
        del dataset.WindowCenter, dataset.WindowWidth
        answered = write(path.with_suffix(".unwindowed"), dataset, **how)
    return read_dicom(answered)
