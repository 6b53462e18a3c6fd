"""--dicom_overlay: a Secondary Capture in the source's study, on the source's pixels, with no more of its header."""

import dataclasses
import datetime
import io
import sys
import types

import numpy as np
import pydicom
import pytest
from dicom_writing import SENTINEL, radiograph, write
from PIL import Image, ImageDraw, ImageFont
from pydicom import uid
from pydicom.encaps import encapsulate

from descargan_tf.commands import predict as command
from descargan_tf.config import Config
from descargan_tf.data.dicom_files import read_dicom
from descargan_tf.data.images import Scaling, write_png
from descargan_tf.data.secondary_capture import SecondaryCaptures
from descargan_tf.errors import UserError
from descargan_tf.prediction.dicom_overlay import DicomOverlays, burn_in, draw
from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR
from descargan_tf.types import Prediction

SIZE = 64
NOW = datetime.datetime(2031, 2, 3, 4, 5, 6)
FACTS = {"scaling": Scaling(0, 65535), "dtype": "uint16", "preparation": {"fit": "pad"}}
CONFIG = Config(mode="predict", input="in", run_dir="runs/x", image_size=SIZE, dicom_overlay=True)
WARNING = "DERIVED - NOT FOR DIAGNOSIS"
LEAK = "KXLEAK"
JAPANESE = "Yamada^Tarou=山田^太郎"
IDENTIFIERS = {
    "PatientName": "Müller^Jürgen",
    "PatientID": "P-17",
    "PatientBirthDate": "19500203",
    "PatientSex": "O",
    "IssuerOfPatientID": "St. Elsewhere",
    "StudyDate": "20200102",
    "StudyTime": "101112.5",
    "StudyID": "S9",
    "AccessionNumber": "A-4",
    "ReferringPhysicianName": "Ärztin^Eva",
}
_LEAKING = """
OtherPatientNames PatientAddress PatientComments PatientMotherBirthName InstitutionName InstitutionAddress
PerformingPhysicianName OperatorsName StudyDescription SeriesDescription ImageComments ProtocolName DeviceSerialNumber
StationName RequestedProcedureDescription AdditionalPatientHistory ManufacturerModelName Manufacturer
InstitutionalDepartmentName DerivationDescription PixelSpacingCalibrationDescription BodyPartExamined
"""
LEAKS = dict.fromkeys(_LEAKING.split(), LEAK) | {"PatientAge": "071Y", "PatientWeight": "83", "Modality": "CR"}
# Of the standard (PS3.3 A.8.1.3): what must be there, whatever its value, and what does not depend on the source.
REQUIRED = {
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("Modality", "SeriesInstanceUID", "SeriesNumber", "ConversionType", "InstanceNumber", "PatientOrientation"),
    *("ContentDate", "ContentTime", "SOPClassUID", "SOPInstanceUID", "SamplesPerPixel", "PhotometricInterpretation"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    "PixelData",
}
FIXED = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
    "ImageType": ["DERIVED", "SECONDARY"],
    "Modality": "OT",
    "ConversionType": "WSD",
    "BurnedInAnnotation": "YES",
    "SeriesDescription": "DeScarGAN anomaly map, not for diagnosis",
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}
OWN = {
    *("SeriesDate", "SeriesTime", "SourceImageSequence", "SecondaryCaptureDeviceManufacturerModelName"),
    *("SecondaryCaptureDeviceSoftwareVersions", "DerivationDescription"),
}


def find_bright(images):
    """What is brighter than the middle of the range is taken away."""
    images = np.asarray(images)
    d = np.where(images > 0, -1.0, 0.0).astype(np.float32)
    p = np.abs(d).mean((1, 2, 3))
    return Prediction(d, images + d, p, np.stack([1 - p, p], 1))


def lesion(shape=(90, 151), place=(60, 75, 100, 120)):
    """A dark image with a bright block, of 12 bits."""
    pixels = np.tile(np.linspace(100, 1500, shape[1]).astype(np.uint16), (shape[0], 1))
    top, bottom, left, right = place
    pixels[top:bottom, left:right] = 4000
    return pixels


def source(path, pixels=None, **tags):
    given = {"BitsStored": 12, "SpecificCharacterSet": "ISO_IR 100", **IDENTIFIERS, **tags}
    return write(path, radiograph(lesion() if pixels is None else pixels, **given))


def captures():
    return SecondaryCaptures(FIXED["SeriesDescription"], "how it came to be", "1.2.3", NOW)


def overlay_of(path, how="pad", anomaly_map=None):
    """What is written of one file, read back."""
    file = io.BytesIO()
    given = np.zeros((SIZE, SIZE), np.float32) if anomaly_map is None else anomaly_map
    DicomOverlays(how, captures()).of(path, given)(file)
    file.seek(0)
    return pydicom.dcmread(file)


def raw(dataset, name):
    """The bytes of an element, as they stand in a file."""
    return dataset.get_item(name).value


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def stand_in(patch, **facts):
    """--mode=predict without a model; gives what stands for its method."""
    method = types.SimpleNamespace(only_classifies=False)
    patch.setattr(command.run_folder, "restore", lambda config: types.SimpleNamespace(method=method))
    patch.setattr(command.run_folder, "data_facts", lambda folder: FACTS | facts)
    patch.setattr(command, "compiled_predict", lambda *_, **__: find_bright)
    return method


def run(folder, output_dir, **flags):
    return command.predict(dataclasses.replace(CONFIG, input=str(folder), output_dir=str(output_dir), **flags))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """in/: two files of one study, one of another, a picture; out/ and again/: what two runs make of them."""
    root = tmp_path_factory.mktemp("made")
    study = uid.generate_uid()
    geometry = {"PixelSpacing": [0.2, 0.1], "PatientOrientation": ["L", "F"], "Laterality": "R"}
    source(root / "in/a.dcm", StudyInstanceUID=study, **LEAKS, **geometry)
    source(root / "in/b.dcm", lesion((200, 70), (60, 90, 10, 30)), StudyInstanceUID=study, **LEAKS)
    source(
        root / "in/other.dcm", **LEAKS | {"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": "ISO_IR 192"}
    )
    write_png(root / "in/picture.png", (lesion() // 16).astype(np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        assert run(root / "in", root / "out") == run(root / "in", root / "again") == 0
    return root


def both(made, name):
    return pydicom.dcmread(made / "in" / f"{name}.dcm"), pydicom.dcmread(made / "out" / f"{name}_overlay.dcm")


# ---- the file


def test_it_lies_beside_the_usual_results_of_dicom_files_alone(made):
    usual = ("_healthy.npy", "_map.npy", "_overlay.png")
    wanted = [f"{stem}{end}" for stem in ("a", "b", "other", "picture") for end in usual]
    wanted += [f"{stem}_overlay.dcm" for stem in ("a", "b", "other")]
    assert names_in(made / "out") == sorted([*wanted, "predictions.csv"])


@pytest.mark.parametrize("name", ["a", "b", "other"])
def test_it_is_a_secondary_capture_as_the_standard_has_it(made, name):
    theirs, found = both(made, name)
    assert found.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert found.file_meta.MediaStorageSOPClassUID == found.SOPClassUID
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    assert {key: found[key].value for key in FIXED} == FIXED
    assert {element.keyword for element in found} >= REQUIRED
    assert (found.Rows, found.Columns) == (theirs.Rows, theirs.Columns) == found.pixel_array.shape[:2]
    assert len(found.PixelData) % 2 == 0
    assert "Not for diagnosis" in found.DerivationDescription
    written = datetime.datetime.strptime(found.ContentDate + found.ContentTime, "%Y%m%d%H%M%S")
    assert abs(datetime.datetime.now() - written) < datetime.timedelta(hours=1)
    (item,) = found.SourceImageSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (theirs.SOPClassUID, theirs.SOPInstanceUID)
    assert item.SpatialLocationsPreserved == "YES"
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


@pytest.mark.parametrize("name", ["a", "b", "other"])
def test_what_files_it_in_the_study_is_the_sources_byte_by_byte(made, name):
    theirs, found = both(made, name)
    for key in (*IDENTIFIERS, "StudyInstanceUID"):
        assert raw(found, key) == raw(theirs, key), key
    assert found.SpecificCharacterSet == theirs.SpecificCharacterSet
    assert found.PatientName == {"other": JAPANESE}.get(name, "Müller^Jürgen")


@pytest.mark.parametrize("name", ["a", "b", "other"])
def test_nothing_else_of_the_source_is_in_it(made, name):
    _, found = both(made, name)
    content = (made / "out" / f"{name}_overlay.dcm").read_bytes()
    assert not [word for word in (LEAK, SENTINEL, "071Y") if word.encode() in content]
    of_grid = {"PixelSpacing", "ImageLaterality"} if name == "a" else set()
    kept = {*IDENTIFIERS, "SpecificCharacterSet", *(of_grid or {"Laterality"})}
    assert {element.keyword for element in found} - OWN == REQUIRED | set(FIXED) | kept


def test_a_study_has_one_fresh_series_a_run(made):
    (a, b, other), again = (
        [pydicom.dcmread(made / out / f"{name}_overlay.dcm") for name in ("a", "b", "other")]
        for out in ("out", "again")
    )
    assert a.SeriesInstanceUID == b.SeriesInstanceUID != other.SeriesInstanceUID
    assert [image.InstanceNumber for image in (a, b, other)] == [1, 2, 1]
    sources = [both(made, name)[0] for name in ("a", "b", "other")]
    images = [a, b, other, *again]
    assert len({image.SeriesInstanceUID for image in (*images, *sources)}) == 4 + 3
    assert len({image.SOPInstanceUID for image in (*images, *sources)}) == 6 + 3


def test_geometry_is_the_sources_where_pixels_are(made):
    _, found = both(made, "a")
    assert found.PixelSpacing == [0.2, 0.1]
    assert found.PatientOrientation == ["L", "F"]
    assert found.ImageLaterality == "R"
    _, without = both(made, "b")
    assert not without.PatientOrientation
    assert not without.Laterality  # there, and empty: not known


# ---- its pixels


@pytest.mark.parametrize(("name", "block"), [("a", (60, 75, 100, 120)), ("b", (60, 90, 10, 30))])
def test_colours_lie_where_the_source_has_what_they_mark(made, name, block):
    theirs, found = both(made, name)
    top, bottom, left, right = block
    picture = found.pixel_array.astype(int)
    assert (picture[top + 5 : bottom - 5, left + 5 : right - 5] == NEGATIVE_COLOUR).all()
    is_coloured = np.ptp(picture, -1) > 0
    edge = int(np.ceil(max(theirs.Rows, theirs.Columns) / SIZE)) * 2
    is_coloured[top - edge : bottom + edge, left - edge : right + edge] = False
    assert not is_coloured.any()
    below = picture[40:, :, 0][~is_coloured[40:] & (theirs.pixel_array[40:] < 2000)]
    gray = np.rint(theirs.pixel_array[40:][~is_coloured[40:] & (theirs.pixel_array[40:] < 2000)] * (255 / 4095))
    assert (below == gray).mean() > 0.9  # all but the block's blurred edge


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (1024, 600)])
def test_the_fit_is_undone(tmp_path, how, shape):
    """A point of the map lies where the middle of its pixel came from, by hand."""
    signed = np.zeros((SIZE, SIZE), np.float32)
    signed[36:40, 24:28] = 1
    row, column = 38 / SIZE - 0.5, 26 / SIZE - 0.5  # of the block's middle, from the image's, in sides
    sides = {"pad": (max(shape),) * 2, "crop": (min(shape),) * 2, "stretch": shape}[how]
    place = shape[0] / 2 + row * sides[0], shape[1] / 2 + column * sides[1]
    path = source(tmp_path / "a.dcm", np.zeros(shape, np.uint16), PhotometricInterpretation="MONOCHROME1")
    picture, is_on_its_grid = draw(path, signed, how)
    assert is_on_its_grid
    assert picture.shape == (*shape, 3)
    found = np.argwhere((picture == POSITIVE_COLOUR).all(-1)).mean(0) + 0.5
    np.testing.assert_allclose(found, place, atol=max(sides) / SIZE / 2)  # a fitted side is rounded to whole pixels
    assert (picture[-1] == 255).all()  # black stored, shown white


@pytest.mark.parametrize("shape", [(2500, 2000), (300, 400), (400, 300), (200, 3000), (130, 130), (64, 64)])
def test_the_words_are_burned_in_whole(shape):
    picture = np.full((*shape, 3), 90, np.uint8)
    burn_in(picture)
    is_changed = (picture != 90).any(-1)
    rows, columns = (np.flatnonzero(is_changed.any(axis)) for axis in (1, 0))
    assert rows[-1] <= max(44, shape[0] / 8)
    assert columns[0] > 0
    assert columns[-1] < shape[1] - 1
    assert abs(columns[0] + columns[-1] + 1 - shape[1]) <= 6  # in the middle
    # Pillow draws the same words elsewhere: what is white in both is the same.
    texts = [WARNING, WARNING.replace("- ", "-\n"), WARNING.replace("- ", "-\n").replace("FOR ", "FOR\n")]
    alike = [np.array_equal(cut(white(text, size)), cut(picture[..., 0] > 150)) for text in texts for size in SIZES]
    assert sum(alike) == 1


SIZES = sorted({10, 14, 2000 // 28, 3000 // 28, 200 // 8})


def white(text, size):
    image = Image.new("RGB", (3200, 400), (90, 90, 90))
    style = {"font": ImageFont.load_default(size), "stroke_width": max(1, size // 10), "stroke_fill": "black"}
    ImageDraw.Draw(image).multiline_text((50, 50), text, "white", align="center", **style)
    return np.asarray(image)[..., 0] > 150


def cut(mask):
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_a_source_without_room_for_the_words_is_drawn_as_the_model_sees_it(tmp_path):
    path = source(tmp_path / "a.dcm", lesion((20, 31), (10, 15, 20, 25)), PixelSpacing=[2, 1], PixelAspectRatio=[2, 1])
    found = overlay_of(path)
    assert found.pixel_array.shape == (SIZE, SIZE, 3)
    assert not {"PixelSpacing", "PixelAspectRatio"} & {element.keyword for element in found}
    assert found.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    assert (found.pixel_array[-8:] == 0).all()  # a bar
    with pytest.raises(UserError, match="20x31 pixels are too small for the words DERIVED"):
        burn_in(np.zeros((20, 31, 3), np.uint8))


def test_a_large_image_is_drawn_in_parts_without_seams(tmp_path):
    pixels = np.tile(np.arange(700, dtype=np.uint16)[:, None] * 5, (1, 300))
    picture, _ = draw(source(tmp_path / "a.dcm", pixels), np.zeros((SIZE, SIZE), np.float32), "pad")
    np.testing.assert_array_equal(picture[100:, 0, 0], np.rint(pixels[100:, 0] * (255 / 4095)))


# ---- odd sources


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA", "ignore:Unknown encoding")  # so it is
@pytest.mark.parametrize("charset", [None, "NONSENSE", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_text_that_is_not_in_the_stated_character_set_stays_as_it_is(tmp_path, charset, syntax):
    dataset = radiograph(lesion(), SpecificCharacterSet=charset, PatientName="M#ller", StudyDate="1999.12.31")
    dataset.file_meta.TransferSyntaxUID = syntax
    path = write(tmp_path / "a.dcm", dataset)
    path.write_bytes(path.read_bytes().replace(b"M#ller", b"M\xfcller"))
    found = overlay_of(path)
    assert raw(found, "PatientName") == b"M\xfcller"
    assert raw(found, "StudyDate") == b"1999.12.31"
    assert found.get("SpecificCharacterSet") == charset


def test_what_a_source_leaves_empty_or_out_is_empty(tmp_path):
    missing = dict.fromkeys(IDENTIFIERS, None) | {"PatientID": "", "SpecificCharacterSet": None}
    found = overlay_of(source(tmp_path / "a.dcm", **missing))
    assert {element.keyword for element in found} >= REQUIRED
    assert not any(found[name].value for name in IDENTIFIERS if name != "IssuerOfPatientID")
    assert "IssuerOfPatientID" not in found


@pytest.mark.parametrize("value", ["00", None])
@pytest.mark.parametrize("method", [None, "ISO_10918_1"])
def test_what_compression_has_lost_is_said(tmp_path, value, method):
    stated = {"LossyImageCompression": value and "01", "LossyImageCompressionRatio": value and "12.5"}
    found = overlay_of(source(tmp_path / "a.dcm", **stated, LossyImageCompressionMethod=method))
    names = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    assert [found.get(name) for name in names] == [value and "01", value and 12.5, method]
    dataset = radiograph((lesion() // 16).astype(np.uint8), LossyImageCompression=value)  # which is wrong
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    jpeg = io.BytesIO()
    Image.fromarray((lesion() // 16).astype(np.uint8)).save(jpeg, "JPEG")
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    found = overlay_of(write(tmp_path / "b.dcm", dataset))
    assert [found.get(name) for name in names][::2] == ["01", "ISO_10918_1"]
    assert 1 < found.LossyImageCompressionRatio < lesion().size / len(jpeg.getvalue())


# ---- what cannot be done


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_source_that_no_archive_could_file_has_all_results_but_this(tmp_path, monkeypatch, capsys, name, value):
    stand_in(monkeypatch)
    good, bad = source(tmp_path / "in/good.dcm"), radiograph(lesion())
    if value is None:
        delattr(bad, name)
    else:
        setattr(bad, name, value)
    bad.preamble = bytes(128)
    bad.save_as(good.with_name("bad.dcm"), implicit_vr=False, little_endian=True)
    assert run(tmp_path / "in", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        f"not done: {tmp_path}/in/bad.dcm: has no {name}, without which no archive could file a DICOM overlay of it; "
        "its other results are written"
    )
    assert "1 of 2 images done" in captured.out
    written = names_in(tmp_path / "out")
    assert {"bad_map.npy", "bad_overlay.png", "good_overlay.dcm"} < set(written)
    assert not [file for file in written if file.startswith("bad") and file.endswith(".dcm")]
    assert len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 3


def refusal(folder, tmp_path):
    with pytest.raises(UserError) as caught:
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_where_nothing_is_dicom_it_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(command.run_folder, "restore", lambda config: pytest.fail("loaded"))
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in/a.png", np.zeros((9, 9), np.uint8))
    message = refusal(tmp_path / "in", tmp_path)
    assert message.startswith(f"--dicom_overlay: there is no DICOM file in --input={tmp_path}/in: ")
    source(tmp_path / "in/b.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    message = refusal(tmp_path / "in", tmp_path)
    assert message == ("--dicom_overlay needs pydicom, which is not installed: pip install -r requirements-medical.txt")


def test_a_model_that_reads_no_dicom_or_has_no_map_is_refused(tmp_path, monkeypatch):
    source(tmp_path / "in/a.dcm")
    stand_in(monkeypatch, preparation=None)
    assert refusal(tmp_path / "in", tmp_path).startswith("--dicom_overlay: the model was trained on folders of images")
    stand_in(monkeypatch).only_classifies = True
    assert "has no map without --saliency" in refusal(tmp_path / "in", tmp_path)


def test_without_the_flag_there_is_none(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    source(tmp_path / "in/a.dcm")
    config = dataclasses.replace(
        CONFIG, dicom_overlay=False, input=str(tmp_path / "in"), output_dir=str(tmp_path / "out")
    )
    assert command.predict(config) == 0
    assert "a_overlay.png" in names_in(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_its_own_files_are_no_input(made):
    """They are in colour; a map of a map would be nonsense."""
    with pytest.raises(UserError, match="is in colour"):
        read_dicom(made / "out/a_overlay.dcm")
