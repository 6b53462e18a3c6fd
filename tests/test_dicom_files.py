"""DICOM files as pydicom writes them: pixels by the standard, no word of a tag in an error."""

import numpy as np
import pytest
from dicom_writing import SENTINEL, encoded, radiograph, write
from pydicom import uid
from pydicom.dataset import Dataset

from descargan_tf.data import dicom_files
from descargan_tf.data.dicom_files import read_dicom, read_tags
from descargan_tf.data.images import Scaling
from descargan_tf.errors import UserError

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)  # 0 to 3071


def shown(tmp_path, dataset):
    return read_dicom(write(tmp_path / "a.dcm", dataset))


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_dicom(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert SENTINEL not in text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or not caught.value.__context__
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(("dtype", "stored"), [(np.uint8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 16)])
def test_without_a_window_the_range_is_that_of_the_stored_bits(tmp_path, dtype, stored):
    pixels = (RAMP % min(2**stored, 900)).astype(dtype)
    found = shown(tmp_path, radiograph(pixels, BitsStored=stored))
    np.testing.assert_array_equal(found.values, pixels)
    assert (found.values.dtype, found.low, found.high) == (dtype, 0, 2**stored - 1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_range_that_is_given_counts_where_there_is_no_window(tmp_path, photometric):
    """12-bit values in a file that says 16 would be nearly black."""
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 60000}
    pixels = RAMP % 3000
    pixels[0] = 60000
    path = write(tmp_path / "a.dcm", radiograph(pixels, **tags))
    for scaling in (Scaling(0, 4095), Scaling(0, 255)):  # values beyond it are for who reads the file to refuse
        found = read_dicom(path, scaling)
        assert (found.low, found.high) == scaling
        wanted = scaling.high - pixels.astype(int) if photometric == "MONOCHROME1" else pixels
        np.testing.assert_array_equal(found.values[1:], wanted[1:])
        assert not found.values[0].any()
    path = write(tmp_path / "b.dcm", radiograph(pixels, WindowCenter=900, WindowWidth=1000, **tags))
    np.testing.assert_array_equal(read_dicom(path, Scaling(0, 4095)).values, read_dicom(path).values)


def test_signed_values_keep_their_sign(tmp_path):
    pixels = RAMP.astype(np.int16) - 1500
    found = shown(tmp_path, radiograph(pixels, BitsStored=12))
    np.testing.assert_array_equal(found.values, np.where(pixels > 2047, pixels - 4096, pixels))
    assert (found.low, found.high) == (-2048, 2047)


def test_bits_above_the_stored_ones_are_no_pixels(tmp_path):
    found = shown(tmp_path, radiograph(RAMP | np.uint16(0x8000), BitsStored=12))
    np.testing.assert_array_equal(found.values, RAMP)


def test_a_rescale_moves_range_and_values(tmp_path):
    found = shown(tmp_path, radiograph(RAMP, BitsStored=12, RescaleSlope="2", RescaleIntercept="-1024"))
    np.testing.assert_allclose(found.values, RAMP * 2.0 - 1024)
    assert (found.low, found.high) == (-1024, 4095 * 2 - 1024)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "1e12"), ("1e-9", "-500"), ("1", "1e38")])
def test_a_rescale_that_leaves_one_value_of_many_is_refused(tmp_path, slope, intercept):
    dataset = radiograph(RAMP, RescaleSlope=slope, RescaleIntercept=intercept)
    said = "its Rescale Slope and Intercept make numbers of it that float32 cannot tell apart"
    assert refusal(write(tmp_path / "a.dcm", dataset)) == said


def linear(x, centre, width):
    """PS3.3 C.11.2.1.2.1, to 0..1."""
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


@pytest.mark.parametrize("slope", [1, -1, 0.5])
def test_a_window_is_that_of_the_standard_behind_the_rescale(tmp_path, slope):
    tags = {"RescaleSlope": slope, "RescaleIntercept": 10, "WindowCenter": [900 * slope, 5], "WindowWidth": [1000, 9]}
    found = shown(tmp_path, radiograph(RAMP, BitsStored=12, **tags))
    np.testing.assert_allclose(found.values, linear(RAMP.astype(float) * slope + 10, 900 * slope, 1000), atol=1e-6)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_windows_other_functions(tmp_path, function):
    tags = {"WindowCenter": 1500, "WindowWidth": 800, "VOILUTFunction": function}
    found = shown(tmp_path, radiograph(RAMP, BitsStored=12, **tags))
    x = RAMP.astype(float)
    wanted = {
        "LINEAR_EXACT": np.clip((x - 1500) / 800 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - 1500) / 800)),
    }
    np.testing.assert_allclose(found.values, wanted[function], atol=1e-6)


def table(entries, first, bits, kind="<u2", vr="OW"):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    entries = np.asarray(entries, kind)
    item.add_new("LUTData", vr, entries.tobytes() if vr == "OW" else entries.tolist())
    return [item]


def test_look_up_tables_of_modality_and_voi(tmp_path):
    curve = np.rint(np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)
    dataset = radiograph(RAMP, BitsStored=12)
    dataset.VOILUTSequence = table(curve, 0, 16)
    dataset.WindowCenter, dataset.WindowWidth = 1, 2  # a table goes before a window
    found = shown(tmp_path, dataset)
    np.testing.assert_array_equal(found.values, curve[RAMP])
    assert (found.low, found.high) == (0, 65535)

    dataset = radiograph(RAMP, BitsStored=12)
    dataset.ModalityLUTSequence = table(curve[::-1], 0, 16)
    found = shown(tmp_path, dataset)
    np.testing.assert_array_equal(found.values, curve[::-1][RAMP])


@pytest.mark.parametrize("kind", ["<u2", "u1"])  # both are known
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("first", [-100, 0, 700])
@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_of_few_bits_have_as_many_entries_as_they_say(tmp_path, name, first, bits, kind):
    curve = np.rint(np.linspace(0, 1, 2048) ** 2 * (2 ** min(bits, 8 if kind == "u1" else 12) - 1)).astype(np.uint16)
    pixels = RAMP.astype(np.int16) - 100
    dataset = radiograph(pixels)
    setattr(dataset, name, table(curve, first, bits, kind))
    found = shown(tmp_path, dataset)
    np.testing.assert_array_equal(found.values, curve[np.clip(pixels - first, 0, 2047)])
    assert (found.low, found.high) == (0, 2**bits - 1)


def test_a_table_of_a_big_endian_file(tmp_path):
    dataset = radiograph(RAMP, BitsStored=12)
    dataset.VOILUTSequence = table(RAMP.ravel()[::-1], 0, 12, ">u2")
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(read_dicom(tmp_path / "a.dcm").values, 3071 - RAMP)


@pytest.mark.parametrize(
    ("entries", "bits", "said"),
    [
        ([1, 2, 300], 8, "a look-up table of its holds values of more bits than it says"),
        ([1, 2, 3], 32, "a look-up table of its holds values of 32 bits, expected 8 to 16"),
        ([1, 2, 3], 0, "a look-up table of its holds values of 0 bits, expected 8 to 16"),
    ],
)
def test_tables_that_are_wrong_are_told(tmp_path, entries, bits, said):
    dataset = radiograph(RAMP)
    dataset.VOILUTSequence = table(entries, 0, bits)
    assert refusal(write(tmp_path / "a.dcm", dataset)) == said
    dataset.VOILUTSequence[0].LUTDescriptor[0], dataset.VOILUTSequence[0].LUTDescriptor[2] = 9, 16
    text = "a look-up table of its holds 6 values, and says 9"
    assert refusal(write(tmp_path / "a.dcm", dataset)) == text


@pytest.mark.parametrize("shape", [None, "INVERSE"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 1000}])
def test_monochrome1_is_inverted_once(tmp_path, shape, window):
    upright = shown(tmp_path, radiograph(RAMP, BitsStored=12, **window))
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": shape, **window}
    inverted = shown(tmp_path, radiograph(RAMP, BitsStored=12, **tags))
    np.testing.assert_allclose(inverted.values, upright.low + upright.high - upright.values, atol=1e-6)
    assert (inverted.low, inverted.high) == (upright.low, upright.high)


def padded(pixels, value, limit=None, **tags):
    """A data set whose first rows are padding, and where they are; explicit types, as pydicom would guess them."""
    dataset = radiograph(pixels, **tags)
    for name, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if number is not None:
            setattr(dataset, name, number)
            dataset[name].VR = "SS" if number < 0 else "US"
    return dataset


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 1000}, {"RescaleSlope": -1}])
@pytest.mark.parametrize(("value", "limit", "filled"), [(4000, None, 4000), (4000, 3900, 3950), (3900, 4000, 3901)])
def test_padding_is_black_and_nothing_else_changes(tmp_path, photometric, window, value, limit, filled):
    tags = {"BitsStored": 12, "PhotometricInterpretation": photometric, **window}
    if "RescaleSlope" in tags:
        tags["RescaleIntercept"] = 100
    plain = shown(tmp_path, radiograph(RAMP, **tags))
    pixels = RAMP.copy()
    pixels[:5] = filled
    found = shown(tmp_path, padded(pixels, value, limit, **tags))
    assert found[1:] == plain[1:]
    np.testing.assert_array_equal(found.values[:5], found.low)
    np.testing.assert_array_equal(found.values[5:], plain.values[5:])


@pytest.mark.parametrize(
    ("dtype", "stored", "filled", "value"),
    [
        (np.int16, 16, -2000, -2000),  # of CT
        (np.int16, 16, -2000, 63536),  # the same, written without its sign
        (np.uint16, 16, 63536, -2000),
        (np.uint16, 12, 65535, 65535),  # above the stored bits
        (np.int16, 12, -2048, -2048),
        (np.uint8, 8, 255, 255),
    ],
)
def test_padding_of_either_sign_and_above_the_stored_bits(tmp_path, dtype, stored, filled, value):
    pixels = (RAMP % 200).astype(dtype)
    pixels[-1] = filled
    found = shown(tmp_path, padded(pixels, value, BitsStored=stored))
    np.testing.assert_array_equal(found.values[-1], found.low)
    np.testing.assert_array_equal(found.values[:-1], RAMP[:-1] % 200)


def test_padding_that_no_pixel_can_have_is_none(tmp_path):
    for value in (65535, 300):
        found = shown(tmp_path, padded(RAMP.astype(np.uint8), value))
        np.testing.assert_array_equal(found.values, RAMP.astype(np.uint8))
    found = shown(tmp_path, radiograph(RAMP, PixelPaddingRangeLimit=5000))  # without a value
    np.testing.assert_array_equal(found.values, RAMP)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
        uid.JPEGLSLossless,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
    ],
    ids=lambda syntax: syntax.name.replace(" ", "_"),
)
def test_lossless_transfer_syntaxes_give_the_same_pixels(tmp_path, syntax):
    dataset = radiograph(RAMP, BitsStored=12)
    path = write(tmp_path / "a.dcm", dataset, **encoded(dataset, syntax))
    np.testing.assert_array_equal(read_dicom(path).values, RAMP)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        *((np.uint8, stored) for stored in (7, 8)),
        *((np.uint16, stored) for stored in (8, 10, 12, 15, 16)),
        *((np.int8, 8), (np.int16, 12), (np.int16, 16)),
    ],
)
@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_lossless_jpeg_of_all_depths_and_signs(tmp_path, syntax, dtype, stored, photometric):
    low, high = (-(1 << stored - 1), 1 << stored - 1) if np.dtype(dtype).kind == "i" else (0, 1 << stored)
    pixels = np.random.default_rng(stored).integers(low, high, (33, 20)).astype(dtype)
    dataset = radiograph(pixels, BitsStored=stored, PhotometricInterpretation=photometric)
    wanted = shown(tmp_path, dataset)
    found = read_dicom(write(tmp_path / "b.dcm", dataset, **encoded(dataset, syntax)))
    np.testing.assert_array_equal(found.values, wanted.values)
    assert (found.values.dtype, *found[1:]) == (wanted.values.dtype, *wanted[1:])


def test_baseline_jpeg_is_read(tmp_path):
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    pixels = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (64, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = radiograph(pixels)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    assert np.abs(shown(tmp_path, dataset).values.astype(int) - pixels).max() <= 3


def test_what_no_decoder_reads_is_told_with_the_remedy(tmp_path, monkeypatch):
    dataset = radiograph(RAMP)
    encoded(dataset, uid.JPEGLosslessSV1)
    path = write(tmp_path / "a.dcm", dataset)
    remedy = (
        ", and no installed decoder reads that: pip install -r requirements-medical.txt, or have it exported without "
        "compression"
    )
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        said = f"is compressed ({uid.JPEGLosslessSV1.name}){remedy}"
        assert refusal(path) == said
        assert read_tags(path).refusal == f"{path}: {said}"
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    assert refusal(write(path, dataset)) == f"is compressed (MPEG2 Main Profile / Main Level){remedy}"


def test_decoders_do_not_depend_on_what_else_is_installed(tmp_path, monkeypatch):
    """Neither GDCM, which ends the process on some files, nor what is not required is tried."""
    tried = []

    def decode(*_, decoding_plugin="", **__):
        tried.append(decoding_plugin)
        raise RuntimeError("of pydicom")

    everything = ("gdcm", "pillow", "pydicom", "pyjpegls", "pylibjpeg")
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.available_plugins", everything)
    monkeypatch.setattr("pydicom.pixels.pixel_array", decode)
    wanted = {
        uid.JPEGBaseline8Bit: ["pillow", "pyjpegls"],
        uid.JPEGLSLossless: ["pillow", "pyjpegls"],
        uid.JPEG2000Lossless: ["pylibjpeg", "pillow", "pydicom"],
        uid.RLELossless: ["pylibjpeg", "pillow", "pydicom"],
    }
    for syntax, names in wanted.items():
        dataset = radiograph(RAMP.astype(np.uint8))
        how = encoded(dataset, syntax)
        tried.clear()
        assert refusal(write(tmp_path / "a.dcm", dataset, **how)) == f"its pixels are damaged ({syntax.name})"
        assert tried == names


def test_damaged_compressed_pixels(tmp_path):
    dataset = radiograph(RAMP)
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom")
    raw = bytearray(dataset.PixelData)
    raw[24:60] = b"\xff" * 36
    dataset.PixelData = bytes(raw)
    refusal(write(tmp_path / "a.dcm", dataset))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"NumberOfFrames": 3}, "holds 3 frames, expected one"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "is in colour (3 samples a pixel)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is not gray"),
        (
            {"Rows": None, "BitsStored": None, "HighBit": None},
            "cannot be read without: Rows, BitsStored",
        ),
        ({"Rows": 65535, "Columns": 65535}, "claims 65535x65535 pixels"),
        ({"Rows": 0}, "holds no pixels: 0x48"),
        ({"BitsAllocated": 32}, "has 16 of 32 bits"),
        ({"BitsStored": 12, "HighBit": 15}, "High Bit"),
        ({"Rows": 65}, "ends too early: 6144 of the 6240 bytes of its pixels are there"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "Window Width is less than 1"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "Rescale Slope is 0"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": 0}, "Rescale Slope and Intercept"),
        ({"RescaleSlope": 1, "RescaleIntercept": "1e30"}, "Rescale Slope and Intercept"),
    ],
)
def test_what_is_no_single_gray_image_is_told(tmp_path, tags, said):
    assert said in refusal(write(tmp_path / "a.dcm", radiograph(RAMP, **tags)))


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # of the writer
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, name, number):
    tags = {"WindowCenter": 5, "WindowWidth": 10, "RescaleSlope": 1, "RescaleIntercept": 0, name: number}
    spoken = name.replace("Window", "Window ").replace("Rescale", "Rescale ")
    assert refusal(write(tmp_path / "a.dcm", radiograph(RAMP, **tags))) == f"its {spoken} is no finite number"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [("1e15", "10"), ("-1e15", "10"), ("5", "1e15"), ("1e300", "1e308")])
def test_a_window_far_off_still_shows_numbers(tmp_path, function, centre, width):
    tags = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    found = shown(tmp_path, radiograph(RAMP, BitsStored=12, **tags))
    wanted = 0.5 if "e" in width else float(centre.startswith("-"))
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_no_pixels_and_no_dicom(tmp_path):
    dataset = radiograph(RAMP)
    del dataset.PixelData
    assert "Pixel Data is missing" in refusal(write(tmp_path / "a.dcm", dataset))
    for content in (b"", b"x" * 500):
        (tmp_path / "b.dcm").write_bytes(content)
        assert refusal(tmp_path / "b.dcm") == "is no DICOM file: DICM is not at byte 128"


def test_a_data_set_without_a_files_header_is_told_how_to_get_one(tmp_path):
    raw = write(tmp_path / "a.dcm", radiograph(RAMP, AccessionNumber="1")).read_bytes()
    behind_meta_information = 144 + int.from_bytes(raw[140:144], "little")
    for begins in (132, behind_meta_information):  # with and without the meta information
        (tmp_path / "bare.dcm").write_bytes(raw[begins:])
        found = refusal(tmp_path / "bare.dcm")
        assert found.startswith("is no DICOM file: DICM is not at byte 128. It may be a data set without")
        assert "dcmconv" in found


def test_a_file_that_ends_anywhere_is_one_line_without_tags(tmp_path):
    raw = write(tmp_path / "a.dcm", radiograph(RAMP)).read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in (0, 10, 132, 140, 200, 350, 500, 800, 1200, len(raw) - 2000, len(raw) - 1):
        cut.write_bytes(raw[:length])
        refusal(cut)


def test_values_that_are_no_numbers_are_not_quoted(tmp_path, caplog, recwarn, capfd):
    raw = write(tmp_path / "a.dcm", radiograph(RAMP, RescaleSlope="1.25000000000", RescaleIntercept="0")).read_bytes()
    (tmp_path / "b.dcm").write_bytes(raw.replace(b"1.25000000000 ", f"{SENTINEL}   ".encode()))
    refusal(tmp_path / "b.dcm")
    out, err = capfd.readouterr()
    assert SENTINEL not in caplog.text + out + err + "".join(str(warning.message) for warning in recwarn)


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files, "_MAX_BYTES", 1 << 20)
    dataset = radiograph(np.zeros((1024, 1024), np.uint16))
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    path = write(tmp_path / "a.dcm", dataset)
    assert path.stat().st_size < 1 << 16
    assert "unpacks to more than 1 MiB" in refusal(path)
    with pytest.raises(UserError, match="unpacks to more"):
        read_tags(path)


def test_tags_that_are_asked_for(tmp_path):
    dataset = radiograph(RAMP)
    tags = read_tags(write(tmp_path / "a.dcm", dataset))
    assert (tags.patient, tags.study) == (f"{SENTINEL}^JANE", dataset.StudyInstanceUID)
    assert (tags.accession, tags.view, tags.device) == (f"{SENTINEL}1", "PA", "TESTRAY")
    assert SENTINEL not in repr(tags)
    bare = radiograph(RAMP, PatientID=None, ViewPosition=None, ManufacturerModelName="", AccessionNumber=None)
    tags = read_tags(write(tmp_path / "b.dcm", bare))
    assert (tags.patient, tags.accession, tags.view, tags.device) == ("", "", "", "")
