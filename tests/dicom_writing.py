"""DICOM files for tests, as scanners write them; every tag that may identify somebody holds SENTINEL."""

import io
import struct

import numpy as np
import scipy.fft
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from descargan_tf.data.codestreams import jpeg_size

SENTINEL = "QZXSENTINEL"
# JPEG by spectral selection and full progression
RETIRED = (uid.UID("1.2.840.10008.1.2.4.53"), uid.UID("1.2.840.10008.1.2.4.55"))
_ROW, _COLUMN = np.divmod(np.arange(64), 8)
# Along diagonals, upwards on every other one (figure A.6).
ZIGZAG = np.lexsort((np.where((_ROW + _COLUMN) % 2, _ROW, _COLUMN), _ROW + _COLUMN))
_AC = [0, 0xF0, *(zeros << 4 | size for zeros in range(16) for size in range(1, 15))]
_NAMES = """
PatientName PatientID OtherPatientNames PatientAddress PatientComments PatientMotherBirthName InstitutionName
InstitutionAddress ReferringPhysicianName PerformingPhysicianName OperatorsName StudyDescription SeriesDescription
ImageComments ProtocolName DeviceSerialNumber StationName RequestedProcedureDescription AdditionalPatientHistory
"""
IDENTIFYING = {
    **dict.fromkeys(
        _NAMES.split(),
        f"{SENTINEL}^JANE",
    ),
    "AccessionNumber": f"{SENTINEL}1",
    "StudyID": SENTINEL,
    "PatientBirthDate": "19500203",
}


def radiograph(pixels, **tags):
    """A data set of [H, W] pixels with what the standard asks for, and `tags` in place of it; None takes one out."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    bits = pixels.dtype.itemsize * 8
    values = {
        **IDENTIFYING,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "CR",
        "ViewPosition": "PA",
        "ManufacturerModelName": "TESTRAY",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": (tags.get("BitsStored") or bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def write(path, dataset, **how):
    """Save a data set, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True, **how)
    return path


def encoded(dataset, syntax, **rules):
    """A data set of `radiograph` in another transfer syntax, and what `save_as` must be told for it.

    Args:
        rules: of `lossless_jpeg` or `extended_jpeg`.
    """
    pixels = np.frombuffer(dataset.PixelData, f"<{_kind(dataset)}{dataset.BitsAllocated // 8}")
    pixels = pixels.reshape(dataset.Rows, dataset.Columns)
    if syntax == uid.JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        _encapsulate(dataset, buffer.getvalue())
    elif syntax in RETIRED:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, progressive=True)
        _encapsulate(dataset, buffer.getvalue())
    elif syntax == uid.JPEGExtended12Bit:
        _encapsulate(dataset, extended_jpeg(pixels, dataset.BitsStored, **rules))
    elif syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        _encapsulate(dataset, lossless_jpeg(pixels, dataset.BitsStored, **rules))
    elif syntax == uid.JPEG2000:
        dataset.compress(syntax, j2k_cr=[4], generate_instance_uid=False)
    elif syntax == uid.JPEGLSNearLossless:
        dataset.compress(syntax, jls_error=3, generate_instance_uid=False)
    elif syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian and dataset.BitsAllocated > 8:
        dataset.PixelData = pixels.byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    return {"implicit_vr": False, "little_endian": False} if syntax == uid.ExplicitVRBigEndian else {}


def damaged_jpegs(sound, marker, random, count):
    """Streams with up to three bytes changed, often into ones that mean something; with the size that each says.

    Without those so large that they would not be what DICOM's header says.
    """
    for _ in range(count):
        stream = bytearray(sound)
        for position in random.integers(0, len(sound), random.integers(1, 4)):
            stream[position] = random.choice((0, marker, 0xD0, 0xD9, 0xFF, random.integers(256)))
        size = jpeg_size(bytes(stream))
        if size and size.height * size.width < 1 << 16:
            yield bytes(stream), size


def lossless_jpeg(pixels, bits, predictor=1, point_transform=0, rows_an_interval=0):
    """ITU-T T.81, process 14, of [H, W] with `bits` that count: every difference in full.

    The Huffman table gives each of the 17 categories five bits, so that nothing is compressed and all is legal.
    """
    values = (pixels.astype(np.int64) & ((1 << bits) - 1)) >> point_transform
    height, width = pixels.shape
    rows = rows_an_interval or height
    start = 1 << (bits - point_transform - 1)
    intervals = [_coded(values[top : top + rows], predictor, start) for top in range(0, height, rows)]
    marked = [data + bytes([0xFF, 0xD0 + number % 8]) for number, data in enumerate(intervals)]
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC4, bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])),
            _segment(0xDD, struct.pack(">H", rows * width)) if rows_an_interval else b"",
            _segment(0xC3, struct.pack(">BHHB", bits, height, width, 1) + bytes([1, 0x11, 0])),
            _segment(0xDA, bytes([1, 1, 0, predictor, 0, point_transform])),
            *marked[:-1],
            intervals[-1],
            b"\xff\xd9",
        )
    )


def _coded(values, predictor, start):
    """A restart interval (H.1.2)."""
    predicted = np.empty_like(values)
    predicted[0, 0], predicted[0, 1:], predicted[1:, 0] = start, values[0, :-1], values[:-1, 0]
    a, b, c = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    predicted[1:, 1:] = (a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1)[predictor - 1]
    found = []
    for difference in ((values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        category = 16 if difference == -(1 << 15) else abs(difference).bit_length()
        found.append(f"{category:05b}")
        if category < 16:  # of category 16 there is one difference alone
            found.append(_bits(difference))
    return _packed(found)


def extended_jpeg(pixels, bits, quantization=(1,) * 64, blocks_an_interval=0):
    """ITU-T T.81, process 4, of [H, W], with all Huffman codes of one length.

    Args:
        quantization: in zigzag order.
    """
    height, width = pixels.shape
    blocks = dct_coefficients(pixels, bits, quantization)[:, ZIGZAG].tolist()
    count = blocks_an_interval or len(blocks)
    intervals = [_coded_blocks(blocks[start : start + count]) for start in range(0, len(blocks), count)]
    marked = [data + bytes([0xFF, 0xD0 + number % 8]) for number, data in enumerate(intervals)]
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, struct.pack(">B64H", 0x10, *quantization)),
            _segment(0xC4, bytes([0, 0, 0, 0, 0, 16, *[0] * 11, *range(16)])),
            _segment(0xC4, bytes([0x10, *[0] * 8, len(_AC), *[0] * 7, *_AC])),
            _segment(0xDD, struct.pack(">H", count)) if blocks_an_interval else b"",
            _segment(0xC1, struct.pack(">BHHB", bits, height, width, 1) + bytes([1, 0x11, 0])),
            _segment(0xDA, bytes([1, 1, 0, 0, 63, 0])),
            *marked[:-1],
            intervals[-1],
            b"\xff\xd9",
        )
    )


def dct_coefficients(pixels, bits, quantization):
    """[blocks, 64] over their quantisation, row by row; at the borders pixels are repeated."""
    rows, columns = (-(-size // 8) for size in pixels.shape)
    padded = np.pad(pixels & ((1 << bits) - 1), [(0, -size % 8) for size in pixels.shape], "edge")
    blocks = padded.reshape(rows, 8, columns, 8).swapaxes(1, 2) - float(1 << bits - 1)
    found = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho").reshape(-1, 64)
    steps = np.empty(64)
    steps[ZIGZAG] = quantization
    return np.rint(found / steps).astype(int)


def _coded_blocks(blocks):
    """A restart interval (F.1.2)."""
    found, previous = [], 0
    for first, *others in blocks:
        found += [f"{abs(first - previous).bit_length():05b}", _bits(first - previous)]
        previous, zeros = first, 0
        while others and not others[-1]:
            others.pop()
        for value in others:
            if not value:
                zeros += 1
                continue
            found += [f"{_AC.index(0xF0):09b}"] * (zeros // 16)
            found += [f"{_AC.index(zeros % 16 << 4 | abs(value).bit_length()):09b}", _bits(value)]
            zeros = 0
        if len(others) < 63:
            found.append(f"{_AC.index(0):09b}")
    return _packed(found)


def _bits(value):
    """As they stand behind a code that says how many there are."""
    size = abs(value).bit_length()
    return f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def _packed(bits):
    """Entropy-coded data of texts of 0 and 1."""
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def _segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _encapsulate(dataset, content):
    dataset.PixelData = encapsulate([content])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def _kind(dataset):
    return "i" if dataset.PixelRepresentation else "u"
