"""--source=dicom: labels by folders and by accession number, and nothing of a tag where it was not asked for."""

import numpy as np
import pytest
from dicom_writing import SENTINEL, encoded, radiograph, write
from PIL import Image
from pydicom.uid import MPEG2MPML, JPEGLosslessSV1

from descargan_tf.commands.predict import raw_reader
from descargan_tf.data import prepared
from descargan_tf.data.dicom_files import is_taken_for_dicom
from descargan_tf.errors import UserError
from descargan_tf.preparation import dicom
from descargan_tf.preparation.prepare import Settings, prepare
from descargan_tf.preparation.sources import Options, pseudonym
from descargan_tf.types import DISEASED, HEALTHY

KEY = b"a key"
PIXELS = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20)


def listing(root, **options):
    return dicom.list(root, Options(key=KEY, **options))


@pytest.fixture
def export(tmp_path):
    root = tmp_path / "export"
    write(root / "healthy/a.dcm", radiograph(PIXELS, PatientID="P1", StudyInstanceUID="1.2.3"))
    write(root / "healthy/deep/IM0001", radiograph(PIXELS, PatientID="P1", StudyInstanceUID="1.2.4"))
    write(root / "healthy/side.dcm", radiograph(PIXELS, PatientID="P1", ViewPosition="LL"))
    write(root / "diseased/b.dcm", radiograph(PIXELS, PatientID="P2", AccessionNumber="A2"))
    (root / "healthy/notes.txt").write_text("x")
    (root / "ground_truth").mkdir()
    Image.fromarray((PIXELS > 300).astype(np.uint8) * 255).save(root / "ground_truth/b.png")
    return root


def test_labels_patients_and_masks_by_folders(export):
    found = listing(export)
    by_name = {image.source: image for image in found.images}
    assert sorted(by_name) == ["diseased/b.dcm", "healthy/a.dcm", "healthy/deep/IM0001"]
    first, second, other = by_name["healthy/a.dcm"], by_name["healthy/deep/IM0001"], by_name["diseased/b.dcm"]
    assert (first.label, second.label, other.label) == (HEALTHY, HEALTHY, DISEASED)
    assert first.patient == second.patient == pseudonym("P1", KEY) != other.patient
    assert first.study == pseudonym("1.2.3", KEY) != second.study
    assert (first.view, first.device) == ("PA", f"device {pseudonym('TESTRAY', KEY)[:8]}")
    assert first.ground_truth is None
    np.testing.assert_array_equal(dicom.read_ground_truth(other, Options()), PIXELS > 300)
    np.testing.assert_array_equal(dicom.read(other, Options()).values, PIXELS)
    assert found.problems == []
    assert found.notes == [
        "1 files of another view, passed over (--view=frontal)",
        "1 files that are no DICOM, passed over",
        "devices, patients and studies are kept as keyed hashes",
    ]
    assert [image.source for image in listing(export, view="lateral").images] == ["healthy/side.dcm"]
    assert len(listing(export, view="all").images) == 4


def test_another_key_gives_other_pseudonyms_and_the_same_key_the_same(export):
    first, again = listing(export), listing(export)
    other = dicom.list(export, Options(key=b"another"))
    assert first.images == again.images
    assert not {image.patient for image in first.images} & {image.patient for image in other.images}


def test_labels_by_accession_number(export, tmp_path):
    write(export / "healthy/c.dcm", radiograph(PIXELS, PatientID="P3", AccessionNumber="A3"))
    table = tmp_path / "labels.csv"
    table.write_text("accession,label\r\nA2,healthy\r\nA3,1\r\nA4,0\r\nA5,sick\r\n,0\r\n")
    found = listing(export, labels_csv=str(table))
    assert {image.source: image.label for image in found.images} == {
        "diseased/b.dcm": HEALTHY,
        "healthy/c.dcm": DISEASED,
    }
    assert found.problems == [
        "labels.csv, line 5: its label is none of healthy, diseased, 0, 1",
        "labels.csv, line 6: no accession number",
    ]
    assert "1 accession numbers of labels.csv without a file" in found.notes
    assert "3 files whose accession number has no label in the table, passed over" in found.notes


def test_two_labels_for_one_accession_number_are_told_and_neither_is_used(export, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("accession,label\nA2,0\nA2,1\n")
    found = listing(export, labels_csv=str(table))
    assert found.images == []
    assert found.problems == ["labels.csv, line 3: another label than a line before has for this accession number"]


def test_the_index_of_a_medium_is_no_image_in_whatever_case(export):
    for name in ("DICOMDIR", "dicomdir", "healthy/Dicomdir"):
        (export / name).write_bytes((export / "healthy/a.dcm").read_bytes())
    assert len(listing(export).images) == 3
    assert not is_taken_for_dicom(export / "dicomdir")


def test_bad_files_are_problems_by_name(export):
    (export / "healthy/none.dcm").write_bytes(b"")
    (export / "diseased/text.dcm").write_text("no DICOM")
    (export / "healthy/gone.dcm").symlink_to("nowhere")
    problems = listing(export).problems
    assert len(problems) == 3
    for name in ("healthy/none.dcm", "diseased/text.dcm", "healthy/gone.dcm"):
        assert any(str(export / name) in line for line in problems)


def test_what_a_header_tells_makes_no_split_shorter(tmp_path):
    """Patients whose files cannot be used are known before the draw, and others take their places."""
    for number in range(8):
        for name in ("healthy", "diseased"):
            write(tmp_path / f"raw/{name}/{number}.dcm", radiograph(PIXELS, PatientID=f"{name}{number}"))
    film = radiograph(PIXELS)
    encoded(film, JPEGLosslessSV1)
    film.file_meta.TransferSyntaxUID = MPEG2MPML
    bad = {
        "healthy/0.dcm": (radiograph(PIXELS, NumberOfFrames=3), "holds 3 frames, expected one"),
        "healthy/1.dcm": (radiograph(PIXELS, SamplesPerPixel=3), "is in colour (3 samples a pixel)"),
        "healthy/2.dcm": (radiograph(PIXELS, BitsStored=None), "its pixels cannot be read without: BitsStored"),
        "healthy/3.dcm": (radiograph(PIXELS), "ends too early: 1100 of the 1200 bytes of its pixels are there"),
        "diseased/0.dcm": (radiograph(PIXELS), "holds no pixels (Pixel Data is missing)"),
        "diseased/1.dcm": (
            film,
            "is compressed (MPEG2 Main Profile / Main Level), and no installed decoder reads that",
        ),
    }
    for name, (dataset, _) in bad.items():
        if name == "diseased/0.dcm":
            del dataset.PixelData
        path = write(tmp_path / "raw" / name, dataset)
        if name == "healthy/3.dcm":
            path.write_bytes(path.read_bytes()[:-100])
    told = listing(tmp_path / "raw").problems
    assert len(told) == len(bad)
    for name, (_, problem) in bad.items():
        assert any(line.startswith(f"{tmp_path / 'raw' / name}: ") and problem in line for line in told), problem
    settings = Settings("dicom", "pad", num_validate=1, num_test=2, data_seed=0)
    result = prepare(tmp_path / "raw", tmp_path / "d", Options(image_size=64), settings, num_workers=1)
    assert not any(result.missing.values())
    assert [result.counts["test", label] for label in (HEALTHY, DISEASED)] == [2, 2]
    assert len(result.failures) == len(bad)


def test_links_to_folders_are_followed_but_not_in_a_circle(export, tmp_path):
    write(tmp_path / "elsewhere/e.dcm", radiograph(PIXELS, PatientID="P5"))
    (export / "healthy/other").symlink_to(tmp_path / "elsewhere")
    (export / "healthy/again").symlink_to(export / "healthy")
    (export / "diseased/all").symlink_to(export)
    found = listing(export)
    assert found.problems == [
        "healthy/again: a link to a folder that it lies in",
        "diseased/all: a link to a folder that it lies in",
    ]
    labels = {image.source: image.label for image in found.images}
    assert labels["healthy/other/e.dcm"] == HEALTHY
    assert len(labels) == 4


def test_a_range_that_is_given_is_that_of_prepared_and_of_predicted_files(tmp_path):
    raw = tmp_path / "raw"
    for number in range(6):
        name = f"{('healthy', 'diseased')[number % 2]}/{number}.dcm"
        write(raw / name, radiograph(PIXELS * 4, PatientID=f"P{number}"))
    write(raw / "healthy/beyond.dcm", radiograph(PIXELS * 40, PatientID="P9"))
    settings = Settings(source="dicom", fit="pad", num_validate=1, num_test=1, data_seed=0)
    options = Options(image_size=64, key=KEY, value_range="0,2400")
    result = prepare(raw, tmp_path / "data", options, settings, num_workers=1)
    (line,) = result.failures
    assert "healthy/beyond.dcm: values from 0 to 23960, expected 0 to 2400; pass the range of all files as" in line
    found = prepared.open_prepared(tmp_path / "data")
    image = found.images("test")[0, ..., 0]
    assert image.max() > 0.9  # of 65535 it would be a gray that nobody sees
    made = {"preparation": {"fit": "pad", "value_range": found.decisions["value_range"]}}
    np.testing.assert_allclose(raw_reader(64, made)(raw / found.rows("test")[0]["source"]), image, atol=1e-6)


def test_files_without_patient_are_told(export):
    write(export / "healthy/d.dcm", radiograph(PIXELS, PatientID=None, StudyInstanceUID="1.9"))
    found = listing(export)
    (image,) = [image for image in found.images if image.source == "healthy/d.dcm"]
    assert image.patient == pseudonym("1.9", KEY)
    assert "1 files without Patient ID: each study counts as a patient, who may be in two splits" in found.notes


def test_folders_without_classes_are_refused(tmp_path):
    (tmp_path / "Healthy").mkdir()
    with pytest.raises(UserError, match="holds no folders healthy and diseased, written so, but Healthy: sort the"):
        listing(tmp_path)
    (tmp_path / "train/healthy").mkdir(parents=True)
    with pytest.raises(UserError, match=f"class folder diseased missing in {tmp_path}/train; found: healthy."):
        listing(tmp_path)


FREE = ("JANE^DOE", "Jane Doe", "ST MARY'S DR DOE", "Ward 4 / Doe (Jane)", "D\u00d6 JANE")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the writer, which is given what the standard forbids
@pytest.mark.parametrize("free", FREE)
def test_no_tag_but_those_asked_for_goes_anywhere(tmp_path, free):
    root = tmp_path / "export"
    for label in ("healthy", "diseased"):
        tags = {"ViewPosition": free, "ManufacturerModelName": free, "SpecificCharacterSet": "ISO_IR 192"}
        write(root / label / "a.dcm", radiograph(PIXELS, **tags))
    table = tmp_path / "labels.csv"
    table.write_text(f"accession,label\n{SENTINEL}1,0\n{SENTINEL}1,1\n")
    for found in (listing(root), listing(root, labels_csv=str(table))):
        text = repr(found) + repr([image._asdict() for image in found.images]) + repr(Options(key=KEY))
        for word in (SENTINEL, "JANE", "Jane", "DOE", "Doe", "Ward", "MARY", KEY.decode()):
            assert word not in text
    first, second = listing(root).images
    assert first.device == second.device == f"device {pseudonym(free, KEY)[:8]}"
    assert first.view == f"view {pseudonym(free, KEY)[:8]}"


def test_devices_are_told_from_each_other_and_no_more(tmp_path):
    for number, model in enumerate(("RAY 1", "RAY 1", "RAY 2", None)):
        write(tmp_path / f"healthy/{number}.dcm", radiograph(PIXELS, ManufacturerModelName=model))
    write(tmp_path / "diseased/0.dcm", radiograph(PIXELS))
    devices = [image.device for image in listing(tmp_path).images if image.label == HEALTHY]
    assert devices[0] == devices[1] != devices[2]
    assert devices[3] == ""
    assert all(image.device.startswith("device ") for image in listing(tmp_path).images if image.device)
    assert {image.device for image in dicom.list(tmp_path, Options(key=b"another")).images} & {*devices} == {""}


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of the writer
@pytest.mark.parametrize("view", ["PA", "ap", "LL", "AP SUPINE", "Lateral", ""])
def test_views_that_are_words_of_radiographers_are_kept(tmp_path, view):
    for name in ("healthy", "diseased"):
        write(tmp_path / name / "a.dcm", radiograph(PIXELS, ViewPosition=view))
    assert {image.view for image in listing(tmp_path, view="all").images} == {view}
