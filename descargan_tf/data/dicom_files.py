"""DICOM radiographs: pixels as the standard has them shown, and the few tags that are asked for.

Stored values go through the modality LUT or rescale, then through the first VOI LUT or window; MONOCHROME1 is inverted
once, behind both (PS3.3 C.11.1, C.11.2 and C.7.6.3.1.2). Without a VOI the whole range of the stored bits counts, or
one that is given for all files, never that of the single image. Presentation LUT Shape is not asked: the standard ties
it to MONOCHROME1 or 2. What a file says is padding (Pixel Padding Value, Pixel Padding Range Limit) is black in the
end.

A file says who the patient is in many tags, and what pydicom says of damaged ones quotes them. So its warnings are not
shown, its errors are told in words of this module, and none is kept as the cause of another.
"""

import contextlib
import dataclasses
import itertools
import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from descargan_tf.data import dicom_decoders
from descargan_tf.data.codestreams import jpeg_2000_size, jpeg_size, unpacks_within, without_boxes
from descargan_tf.data.formats import IMAGE_SUFFIXES
from descargan_tf.data.images import MAX_PIXELS, Scaling
from descargan_tf.errors import UserError
from descargan_tf.files import reading

SUFFIXES = (".dcm", ".dicom", ".ima")
INDEX = "DICOMDIR"  # of a medium, in whatever case; it begins as images do

_META_BEGINS = 144  # a preamble, DICM, and the element that says how long the rest of the meta information is
_MAX_BYTES = 2**29  # of a file, deflated or not: four times what 16-bit pixels of MAX_PIXELS take
_NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_SYNTAX = "TransferSyntaxUID"
_TAGS = ("PatientID", "StudyInstanceUID", "AccessionNumber", "ViewPosition", "ManufacturerModelName")
_OF_PIXELS = (*_NEEDED, "NumberOfFrames", "SamplesPerPixel", "HighBit")
_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


class Shown(NamedTuple):
    """What a radiograph shows."""

    values: np.ndarray  # [H, W] uint8, uint16 or float32; more is brighter
    low: float  # black
    high: float  # white


@dataclasses.dataclass(frozen=True)
class Tags:
    """What is asked of a header; "" where a file does not say it. As it may identify a person, none is shown."""

    patient: str = dataclasses.field(repr=False)
    study: str = dataclasses.field(repr=False)
    accession: str = dataclasses.field(repr=False)
    view: str = dataclasses.field(repr=False)
    device: str = dataclasses.field(repr=False)
    refusal: str = ""  # a line on why `read_dicom` will refuse it; "" where the header does not say that


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file begins as DICOM files do, whatever its name.

    Raises:
        UserError: it cannot be read.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # a pipe would be waited for
        raise UserError(f"{path}: is no regular file; expected a DICOM file")
    with reading(path), open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_taken_for_dicom(path: Path) -> bool:
    """By its suffix; where that is none of an image's, as of an archive's files, by how the file begins."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() in IMAGE_SUFFIXES or path.name.upper() == INDEX:
        return False
    with contextlib.suppress(UserError):
        return path.is_file() and is_dicom(path)
    return False  # it cannot be read, which whoever reads it will say


def read_tags(path: str | os.PathLike) -> Tags:
    """Read a header; pixels stay where they are.

    Raises:
        UserError: names the file.
    """
    found = _Pixels()
    dataset = _read(path, [*_TAGS, *_OF_PIXELS], found)
    with _own_words(path):
        return Tags(*(_text(dataset.get(name)) for name in _TAGS), refusal=_refusal(path, dataset, found))


def read_bytes(path: str | os.PathLike, names: Iterable[str]) -> dict[str, bytes]:
    """What a header says under some names, as the bytes that stand there: b"" where none do.

    Of the meta information, TransferSyntaxUID can be asked for.

    Raises:
        UserError: names the file.
    """
    names = list(names)
    dataset = _read(path, [name for name in names if name != _SYNTAX])
    with _own_words(path):
        found = {name: _bytes_of(dataset.get_item(name, keep_deferred=True)) for name in names}
        return found | {_SYNTAX: str(dataset.file_meta.get(_SYNTAX, "")).encode()}


def read_dicom(path: str | os.PathLike, scaling: Scaling | None = None) -> Shown:
    """Read the pixels of a file with one gray image of 8 to 16 bits.

    Args:
        path: of the file.
        scaling: what is black and white where the file has no VOI, as of 12-bit values that call themselves 16-bit; in
            the units behind the rescale. Values beyond it are given as they are.

    Raises:
        UserError: names the file, and what of it is not that.
    """
    dataset = _read(path)
    with _own_words(path):
        _refuse_other_kinds(dataset, next((name for name in _PIXELS.values() if name in dataset), ""))
        values = _stored(dataset)
        is_padding = _is_padding(dataset, values)
        values = _without_overlays(dataset, values)
        is_padding |= _is_padding(dataset, values)
        return _shown(dataset, values, is_padding, scaling)


class _Pixels:
    """What kind of pixels stand behind a header, and how many bytes are left for them."""

    kind, num_bytes, file = "", 0, None

    def __call__(self, tag, _, __):
        """Pydicom asks before it reads an element."""
        if tag not in _PIXELS:
            return False
        self.kind, self.num_bytes = _PIXELS[tag], os.fstat(self.file.fileno()).st_size - self.file.tell()
        return True


def _read(path, tags=None, stop_when=None):
    """Read all of a file, or some tags of what stands before its pixels."""
    import pydicom

    if not is_dicom(path):
        raise UserError(f"{path}: is no DICOM file: DICM is not at byte 128{_what_begins_it(path)}")
    with reading(path), _own_words(path):
        size = os.path.getsize(path)
        if tags is None and size > _MAX_BYTES:
            raise UserError(
                f"is {size >> 20} MiB long, more than {_MAX_BYTES >> 20}: does it hold more than one image?"
            )
        _refuse_bomb(path)
        if stop_when is None:
            return pydicom.dcmread(path, stop_before_pixels=tags is not None, specific_tags=tags)
        with open(path, "rb") as stop_when.file:
            return pydicom.filereader.read_partial(
                stop_when.file, stop_when, specific_tags=[pydicom.tag.Tag(name) for name in tags]
            )


def _what_begins_it(path):
    """Of a file without a preamble: how it gets one. A data set begins with its group 2 or 8, in either byte order."""
    with reading(path), open(path, "rb") as file:
        group = file.read(2)
    if group not in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08"):
        return ""
    return (
        ". It may be a data set without the header of a file, which DCMTK's `dcmconv` writes (dcmconv old.dcm new.dcm)"
    )


def _refusal(path, dataset, found):
    """As far as a header can tell, so that the file is known as failed before splits are drawn."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        with _own_words(path):
            _refuse_other_kinds(dataset, found.kind)
            syntax = dataset.file_meta.TransferSyntaxUID
            is_as_stored = not dicom_decoders.is_encapsulated(syntax) and syntax != DeflatedExplicitVRLittleEndian
            if is_as_stored:
                _refuse_too_short(dataset, found.num_bytes)
    except UserError as error:
        return str(error)
    return ""


def _refuse_bomb(path):
    """pydicom inflates a deflated file without a bound."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflating, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with open(path, "rb") as file:
        file.seek(_META_BEGINS + meta.FileMetaInformationGroupLength)
        while block := file.read(1 << 16):
            while block:
                size += len(inflating.decompress(block, 1 << 24))
                block = inflating.unconsumed_tail
                if size > _MAX_BYTES:
                    raise UserError(f"unpacks to more than {_MAX_BYTES >> 20} MiB; is this a radiograph?")


@contextlib.contextmanager
def _own_words(path: str | os.PathLike) -> Iterator[None]:
    """Name the file; nothing that pydicom or a decoder says goes out, as it may quote tags.

    Raises:
        UserError: in place of whatever goes wrong.
    """
    logger = logging.getLogger("pydicom")  # and those below it, which hand on to it
    before = logger.disabled, logger.propagate
    logger.disabled, logger.propagate = True, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError as error:
        problem = str(error)
    except OSError:
        raise  # the system's words, which name the file and no tag
    except MemoryError:
        problem = "is too large for the memory"
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a decoder in Rust
            raise
        problem = f"is damaged, ends too early, or is no DICOM by the standard ({type(error).__name__})"
    else:
        return
    finally:
        logger.disabled, logger.propagate = before
    raise UserError(f"{path}: {problem}") from None


def _bytes_of(element):
    value = (element and element.value) or b""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else "\\".join(value)).encode()  # Specific Character Set, decoded already


def _text(value):
    """A tag's value; the first where there are several."""
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, str):
        return str(value).strip()
    if isinstance(value, Iterable):
        return _text(next(iter(value), None))
    return str(value)


def _refuse_other_kinds(dataset, pixels):
    """What is no single gray image of 8 to 16 bits.

    Args:
        dataset: at least its tags of `_OF_PIXELS`.
        pixels: a value of `_PIXELS`, or "" where there are none.

    Raises:
        UserError: without the file's name.
    """
    frames = dataset.get("NumberOfFrames")
    if frames is not None and int(frames) != 1:
        raise UserError(f"holds {int(frames)} frames, expected one: export each as a file of its own")
    if pixels not in ("PixelData", ""):
        raise UserError("holds floating-point pixels, expected 8 to 16 bits")
    if not pixels:
        raise UserError("holds no pixels (Pixel Data is missing); is this a report or a presentation state?")
    missing = [name for name in _NEEDED if dataset.get(name) is None]
    if missing:
        raise UserError(f"lacks what its pixels cannot be read without: {', '.join(missing)}")
    samples = int(dataset.get("SamplesPerPixel", 1))
    if samples != 1:
        raise UserError(f"is in colour ({samples} samples a pixel), expected one gray channel")
    if dataset.PhotometricInterpretation not in _GRAY:
        raise UserError(f"is not gray: Photometric Interpretation is none of {', '.join(_GRAY)}")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not rows * columns:
        raise UserError(f"holds no pixels: {rows}x{columns}")
    if rows * columns > MAX_PIXELS:
        raise UserError(f"claims {rows}x{columns} pixels, more than the {MAX_PIXELS} allowed; is this a radiograph?")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 < stored <= allocated:
        raise UserError(f"has {stored} of {allocated} bits a pixel, expected 8 to 16")
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise UserError("keeps its pixels in the upper bits of each value (High Bit), which is retired and not read")


def _stored(dataset):
    """The stored values, [H, W].

    Raises:
        UserError: without the file's name.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if dicom_decoders.is_encapsulated(syntax):
        frame, bits = _frame(dataset, syntax)
    else:
        _refuse_too_short(dataset, len(dataset.PixelData))
        _refuse_frames(dataset)
        frame, bits = None, int(dataset.BitsStored)
    values = dicom_decoders.decode(dataset, frame, bits)
    if values.shape != (dataset.Rows, dataset.Columns):
        raise UserError(f"its pixels are {list(values.shape)}, and its header says {dataset.Rows}x{dataset.Columns}")
    return values


def _without_overlays(dataset, values):
    """The stored bits alone: old files keep overlays in those above them."""
    unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    return (values << unused) >> unused if unused else values  # carries the sign along where there is one


def _is_padding(dataset, values):
    """What fills an image up to a rectangle and is no part of it (PS3.3 C.7.5.1.1.2)."""
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ends = [int(dataset.get(name)) for name in names if dataset.get(name) is not None]
    if dataset.get(names[0]) is None:
        return np.zeros(values.shape, bool)
    # The tags have 16 bits, and either sign whatever the pixels have: what does not fit is of the other.
    kind = np.iinfo(values.dtype)
    ends = [end + (1 << 16 if end < kind.min else -(1 << 16) if end > kind.max else 0) for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


def _refuse_too_short(dataset, num_bytes):
    """Pixels that are not compressed, of which a part is missing.

    Raises:
        UserError: without the file's name.
    """
    if num_bytes < (needed := _bytes_of_frame(dataset)):
        raise UserError(f"ends too early: {num_bytes} of the {needed} bytes of its pixels are there")


def _refuse_frames(dataset):
    """Several of them, not compressed, where the header says one.

    Raises:
        UserError: without the file's name.
    """
    frame = _bytes_of_frame(dataset)
    if len(dataset.PixelData) >= 2 * frame:
        raise UserError(f"holds the pixels of {len(dataset.PixelData) // frame} frames, and its header says one")


def _bytes_of_frame(dataset):
    return int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8


def _frame(dataset, syntax):
    """The compressed frame, which is found to be one and of the size that is said, and how many bits its values have.

    Raises:
        UserError: without the file's name.
    """
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # where each frame begins; here there is one
        if name in dataset:
            delattr(dataset, name)
    frames = list(itertools.islice(generate_frames(dataset.PixelData, number_of_frames=1), 2))
    if len(frames) > 1:
        raise UserError("holds the compressed pixels of several frames, and its header says one")
    frame = frames[0]
    if syntax == RLELossless:  # says no size, and is decoded into the header's
        if not unpacks_within(frame, int(dataset.Rows) * int(dataset.Columns)):
            raise dicom_decoders.damaged(syntax)
        return frame, int(dataset.BitsStored)
    if syntax in JPEG2000TransferSyntaxes:
        if (stream := without_boxes(frame)) is not frame:
            dataset.PixelData, frame = encapsulate([stream]), stream
        size = jpeg_2000_size(frame)
    else:
        size = jpeg_size(frame)
    if size is None:
        raise dicom_decoders.damaged(syntax)
    if (size.height, size.width) != (dataset.Rows, dataset.Columns):
        said = f"{dataset.Rows}x{dataset.Columns}"
        raise UserError(f"its compressed pixels are {size.height}x{size.width}, and its header says {said}")
    if size.channels != 1 or size.bits > int(dataset.BitsAllocated):
        raise UserError(
            f"its compressed pixels have {size.channels} channels of {size.bits} bits, and its header says one of "
            f"{dataset.BitsAllocated}"
        )
    return frame, size.bits


def _shown(dataset, values, is_padding, scaling):
    from pydicom.pixels.processing import apply_modality_lut, apply_windowing

    low, high = _stored_range(dataset)
    if dataset.get("ModalityLUTSequence"):
        values, low, high = _looked_up(values, dataset.ModalityLUTSequence[0], dataset)
    elif dataset.get("RescaleSlope") is not None and dataset.get("RescaleIntercept") is not None:
        slope = _finite(dataset.RescaleSlope, "Rescale Slope")
        intercept = _finite(dataset.RescaleIntercept, "Rescale Intercept")
        if not slope:
            raise UserError("its Rescale Slope is 0, which leaves nothing to be seen")
        if (slope, intercept) != (1, 0):
            values = apply_modality_lut(values, dataset)
            low, high = sorted(slope * end + intercept for end in (low, high))
            furthest = np.float32(max(-low, high))
            if not np.isfinite(furthest) or np.spacing(furthest) > abs(slope):  # one stored value from the next
                raise UserError("its Rescale Slope and Intercept make numbers of it that float32 cannot tell apart")
    if dataset.get("VOILUTSequence"):
        values, low, high = _looked_up(values, dataset.VOILUTSequence[0], dataset)
    elif _has_window(dataset):
        values = apply_windowing(values, dataset)
        # What lies below and above every window: black and white, in whatever units they are.
        black, white = apply_windowing(np.array([-np.inf, np.inf]), dataset)
        # Rounding of a window's ends.
        values, low, high = np.clip((values - black) / (white - black), 0, 1), 0.0, 1.0
    elif scaling:
        low, high = scaling
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = low + high - values.astype(np.float64)
    if not scaling:
        values = np.clip(values, low, high)  # rounding of a rescale
    values[is_padding] = low  # black, whatever the file has there
    lowest, highest = min(low, values.min()), max(high, values.max())
    is_whole = lowest >= 0 and highest <= 65535 and float(high).is_integer() and high > 1 and not (values % 1).any()
    kind = (np.uint8 if highest <= 255 else np.uint16) if is_whole else np.float32
    return Shown(values.astype(kind), low, high)


def _looked_up(values, item, dataset):
    """Values by a look-up table, and its whole range. pydicom's counts 8-bit entries in 8 bits, and wraps beyond 256.

    Raises:
        UserError: without the file's name.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 1 << 16
    if not 8 <= bits <= 16:
        raise UserError(f"a look-up table of its holds values of {bits} bits, expected 8 to 16")
    table = item.LUTData
    if isinstance(table, bytes):
        is_little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        kind = np.dtype(np.uint16).newbyteorder("<" if is_little else ">") if len(table) >= 2 * entries else np.uint8
        table = np.frombuffer(table, kind)
    table = np.atleast_1d(np.asarray(table, np.uint16))
    if len(table) < entries:
        raise UserError(f"a look-up table of its holds {len(table)} values, and says {entries}")
    found = table[np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)]
    if found.max() >= 1 << bits:
        raise UserError("a look-up table of its holds values of more bits than it says")
    return found, 0.0, 2.0**bits - 1


def _stored_range(dataset):
    bits = int(dataset.BitsStored)
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0.0, 2.0**bits - 1)


def _has_window(dataset):
    centre, width = (_text(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if not centre or not width:
        return False
    _finite(centre, "Window Center")
    smallest = 1.0 if dataset.get("VOILUTFunction", "LINEAR") == "LINEAR" else 1e-9
    if _finite(width, "Window Width") < smallest:
        raise UserError(f"its Window Width is less than {smallest:g}, which the standard forbids")
    return True


def _finite(value, name):
    """The number in a tag.

    Raises:
        UserError: without the file's name, and without the tag's text.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"its {name} is no finite number")
    return number
