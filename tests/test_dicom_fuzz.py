"""The DICOM reader under whatever bytes: a finite image of its header's size, or one line that names the file."""

import functools
import io
import os

import numpy as np
import pytest
from dicom_writing import SENTINEL, radiograph
from dicom_writing import encoded as in_syntax
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from descargan_tf.data.dicom_files import read_dicom, read_tags
from descargan_tf.errors import UserError
from descargan_tf.names import one_line

TRIES = int(os.environ.get("FUZZ_TRIES", "30"))  # of each test; raise it for a search, which then draws others
FUZZ = settings(
    max_examples=TRIES,
    derandomize="FUZZ_TRIES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
PIXELS = np.arange(36 * 40, dtype=np.uint16).reshape(36, 40) * 2  # of 12 bits; JPEG 2000 is not written any smaller
COMPRESSED = {
    "rle": uid.RLELossless,
    "jpeg2000": uid.JPEG2000Lossless,
    "jpegls": uid.JPEGLSLossless,
    "lossless_jpeg": uid.JPEGLosslessSV1,
    "extended_jpeg": uid.JPEGExtended12Bit,
}
PLAIN = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
SYNTAXES = (*PLAIN, *COMPRESSED, "jpeg")
# Of image and tags whatever the reader asks, what stands in files by mistake, and what numpy and decoders choke on.
NUMBERS = (0, 1, 2, 7, 8, 9, 12, 15, 16, 17, 32, 64, 255, 4095, 32768, 65535)
DECIMALS = ("nan", "inf", "-inf", "1e308", "-1e308", "1e-308", "0", "1", "-1", "", " ", "x", "1\\2", "1e9", "\0")
WORDS = ("MONOCHROME1", "RGB", "YBR_FULL", "SIGMOID", "LINEAR_EXACT", "x", "", "ISO_IR 100", "ISO 2022 IR 87")
ODD = {
    "Rows": NUMBERS,
    "Columns": NUMBERS,
    "BitsAllocated": NUMBERS,
    "BitsStored": NUMBERS,
    "HighBit": NUMBERS,
    "PixelRepresentation": NUMBERS,
    "SamplesPerPixel": NUMBERS,
    "PlanarConfiguration": NUMBERS,
    "PixelPaddingValue": NUMBERS,
    "PixelPaddingRangeLimit": NUMBERS,
    "WindowCenter": DECIMALS,
    "WindowWidth": DECIMALS,
    "RescaleSlope": DECIMALS,
    "RescaleIntercept": DECIMALS,
    "NumberOfFrames": ("0", "1", "2", "-1", "99999999999", "x", "", "1\\2"),
    "PhotometricInterpretation": WORDS,
    "VOILUTFunction": WORDS,
    "ViewPosition": WORDS,
    "SpecificCharacterSet": WORDS,
}
BYTES = st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xd9", b"\x7f\xff"]))


def look_up_table(entries, first, bits):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, first, bits])
    item.add_new("LUTData", "OW", np.arange(64, dtype=np.uint16).tobytes())
    return [item]


@functools.cache
def sound(syntax):
    """A valid file."""
    dataset = radiograph(PIXELS, BitsStored=12, WindowCenter="2000", WindowWidth="3000", RescaleSlope=1)
    dataset.RescaleIntercept = 0
    return encoded(dataset, syntax)


def encoded(dataset, syntax):
    """As bytes; a data set of odd values keeps the pixels of one that is sound."""
    file = io.BytesIO()
    if syntax in COMPRESSED:
        whole = radiograph(PIXELS, BitsStored=12)
        in_syntax(whole, COMPRESSED[syntax])
        dataset.PixelData = whole.PixelData
    elif syntax == "jpeg":
        picture = io.BytesIO()
        Image.fromarray((PIXELS >> 4).astype(np.uint8)).save(picture, "JPEG")
        dataset.PixelData = encapsulate([picture.getvalue()])
        for name, value in (("BitsAllocated", 8), ("BitsStored", 8), ("HighBit", 7)):
            if dataset.get(name) in (16, 12, 11):
                setattr(dataset, name, value)
    if syntax not in PLAIN:
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = {**PLAIN, **COMPRESSED, "jpeg": uid.JPEGBaseline8Bit}[syntax]
    is_big = syntax == "big"
    order = {"implicit_vr": False, "little_endian": False} if is_big else {}
    if is_big:
        dataset.PixelData = PIXELS.astype(">u2").tobytes()
    dataset.save_as(file, enforce_file_format=True, **order)
    return file.getvalue()


@st.composite
def damaged(draw, content):
    """With some bytes changed, taken out or put in, mostly where the tags and the stream's own head are, or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 5))):
        position = draw(st.integers(128, len(content)))
        new = draw(BYTES)
        content[position : position + draw(st.sampled_from([len(new)] * 5 + [0, 1, 4]))] = new
    is_cut = not draw(st.integers(0, 3))
    return bytes(content[: draw(st.integers(0, len(content)))] if is_cut else content)


@st.composite
def odd(draw, syntax):
    """A file with tags taken out or set to what should not be there."""
    dataset = radiograph(PIXELS, BitsStored=12)
    for name in draw(st.lists(st.sampled_from(sorted(ODD)), max_size=5, unique=True)):
        value = draw(st.one_of(st.none(), st.sampled_from(ODD[name])))
        if name in dataset:
            del dataset[name]
        if isinstance(value, int):
            dataset.add_new(name, "US", value)
        elif value is not None:  # unconverted, as pydicom would not take what the standard forbids
            dataset[name] = DataElement(name, dictionary_VR(name), value, already_converted=True)
    numbers = st.sampled_from((0, 1, 63, 64, 4096, 32767))
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if not draw(st.integers(0, 4)):
            setattr(dataset, name, look_up_table(draw(numbers), draw(numbers), draw(st.sampled_from(NUMBERS))))
    return encoded(dataset, syntax)


def judged(path, content):
    """Whether a file is read; everything else than an image or one line fails."""
    path.write_bytes(content)
    try:
        tags = read_tags(path)
        values, low, high = read_dicom(path)
    except UserError as error:
        text = str(error)
    else:
        assert not tags.refusal  # a header refuses nothing that can be read
        header = dcmread(path, force=True, stop_before_pixels=True)
        assert values.shape == (header.Rows, header.Columns)
        assert values.dtype in (np.uint8, np.uint16, np.float32)
        assert np.isfinite(values).all()
        assert np.isfinite(np.float32([low, high])).all()
        assert low < high
        assert np.float32(low) <= values.min()
        assert values.max() <= np.float32(high)
        return True
    assert text == one_line(text)
    assert text.startswith(f"{path}: ")
    assert SENTINEL not in text
    return False


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what the test writes and reads by itself
@pytest.mark.parametrize("kind", ["damaged", "odd"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_dicom_file_is_read_or_named(tmp_path, syntax, kind):
    seen = {True: 0, False: 0}

    @given(damaged(sound(syntax)) if kind == "damaged" else odd(syntax))
    def attempt(content):
        seen[judged(tmp_path / "a.dcm", content)] += 1

    # CharLS takes ten seconds over some streams of 300 bytes; one of them is among the files that are usually drawn.
    attempt = FUZZ(seed(1)(attempt) if syntax == "jpegls" and "FUZZ_TRIES" not in os.environ else attempt)

    assert judged(tmp_path / "a.dcm", sound(syntax))
    attempt()
    assert seen[False]
