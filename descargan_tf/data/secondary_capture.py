"""A picture of a DICOM image, as a Secondary Capture in the same study (PS3.3 A.8.1): what is kept of the source.

What files the picture beside its source is repeated: the type 1 and 2 attributes of the modules Patient and General
Study, and the issuer that a patient's ID counts for, byte by byte with the character set that they are written in. Else
nothing is taken over but what says how the pixels lie and what compression has done to them.
"""

import contextlib
import datetime
import os
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from descargan_tf.data import dicom_files
from descargan_tf.errors import UserError

_STUDY = "StudyInstanceUID"
_REQUIRED = (_STUDY, "SOPClassUID", "SOPInstanceUID")
_FILED_BY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *(_STUDY, "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_ALSO_WHERE_STATED = ("SpecificCharacterSet", "IssuerOfPatientID")
_OF_GRID = ("PixelSpacing", "PixelSpacingCalibrationType", "PixelAspectRatio")
_OF_LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_OTHERS = ("PatientOrientation", "ImageLaterality", "Laterality", "Rows", "Columns", "BitsAllocated")
_ASKED = (*_REQUIRED, *_FILED_BY, *_ALSO_WHERE_STATED, *_OF_GRID, *_OF_LOSS, *_OTHERS, "TransferSyntaxUID")
# Compressions that cannot but lose something; JPEG 2000 may or may not, which its transfer syntax does not say.
_LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
_SERIES_NUMBER = 9900  # behind the series that a study has; without one it could not go onto a disc (DICOMDIR)
_PADDING = b" \0"


def require_pydicom(why: str) -> None:
    """Say what to install where pydicom is missing.

    Raises:
        UserError: it is; begins with `why`.
    """
    try:
        import pydicom  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            f"{why} needs pydicom, which is not installed: pip install -r requirements-medical.txt"
        ) from None


class SecondaryCaptures:
    """The captures of one run; those of a study share a series, which no other run has.

    A series holds one modality while a study may hold several, and nothing was acquired: it is OT, so that no viewer
    hangs a capture among the radiographs.
    """

    def __init__(self, description: str, derivation: str, version: str | None, now: datetime.datetime):
        """Begin a run.

        Args:
            description: of the series, up to 64 characters of ASCII, as is all text here.
            derivation: how the pixels came to be, up to 1024 characters.
            version: of the program, where it is known.
            now: local time of the run.
        """
        self._description, self._derivation, self._version, self._now = description, derivation, version, now
        self._series: dict[bytes, tuple[str, int]] = {}  # by study: its UID, and how many images it has

    def of(self, source: str | os.PathLike, picture: np.ndarray, is_on_its_grid: bool) -> Callable[[BinaryIO], None]:
        """What writes a picture with words burned in as a DICOM file of its source's study.

        Args:
            source: the DICOM file.
            picture: [H, W, 3] uint8, RGB.
            is_on_its_grid: whether each pixel lies where the same one of the source does.

        Raises:
            UserError: naming the source, if it cannot be read, or lacks a UID without which nothing can refer to it.
        """
        stated = dicom_files.read_bytes(source, _ASKED)
        for name in _REQUIRED:
            if not stated[name].strip(_PADDING):
                raise UserError(f"{source}: has no {name}, without which no archive could file a DICOM overlay of it")
        with _quiet():
            dataset = self._dataset(stated, os.path.getsize(source), picture, is_on_its_grid)

        def write(file):
            with _quiet():
                dataset.save_as(file, enforce_file_format=True)

        return write

    def _next_in_series(self, study):
        from pydicom.uid import generate_uid

        series, count = self._series.get(study, (generate_uid(), 0))
        self._series[study] = series, count + 1
        return series, count + 1

    def _dataset(self, stated, source_bytes, picture, is_on_its_grid):
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        for name in _FILED_BY:
            _put(dataset, name, stated[name])
        for name in (*_ALSO_WHERE_STATED, *(_OF_GRID if is_on_its_grid else ())):
            if stated[name]:
                _put(dataset, name, stated[name])
        if "PixelSpacingCalibrationType" in dataset:
            dataset.PixelSpacingCalibrationDescription = "as of the source image"
        dataset.SeriesInstanceUID, dataset.InstanceNumber = self._next_in_series(stated[_STUDY].strip(_PADDING))
        dataset.SeriesNumber = _SERIES_NUMBER
        dataset.SeriesDescription = self._description
        dataset.SeriesDate = dataset.ContentDate = self._now.strftime("%Y%m%d")
        dataset.SeriesTime = dataset.ContentTime = self._now.strftime("%H%M%S")
        dataset.Modality = "OT"
        dataset.ConversionType = "WSD"
        dataset.SecondaryCaptureDeviceManufacturerModelName = "descargan_tf"
        if self._version:
            dataset.SecondaryCaptureDeviceSoftwareVersions = self._version
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.DerivationDescription = self._derivation
        dataset.BurnedInAnnotation = "YES"
        _put(dataset, "PatientOrientation", stated["PatientOrientation"])
        laterality = stated["ImageLaterality"] or stated["Laterality"]
        _put(dataset, "ImageLaterality" if laterality else "Laterality", laterality)  # not known: there, and empty
        _state_loss(dataset, stated, source_bytes)
        purpose, item = Dataset(), Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
        purpose.CodeMeaning = "Source image for image processing operation"
        _put(item, "ReferencedSOPClassUID", stated["SOPClassUID"])
        _put(item, "ReferencedSOPInstanceUID", stated["SOPInstanceUID"])
        item.PurposeOfReferenceCodeSequence = [purpose]
        item.SpatialLocationsPreserved = "YES" if is_on_its_grid else "NO"
        dataset.SourceImageSequence = [item]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.Rows, dataset.Columns, _ = picture.shape
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
        dataset["PixelData"].VR = "OB"
        # By which pydicom knows that what is here in bytes is as it will be written, and leaves it alone.
        dataset.set_original_encoding(False, True, _character_set(dataset))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return dataset


@contextlib.contextmanager
def _quiet():
    """What pydicom warns of quotes tags, and is of the source, which stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _character_set(dataset):
    from pydicom.charset import convert_encodings

    return convert_encodings(dataset.SpecificCharacterSet) if "SpecificCharacterSet" in dataset else None


def _put(dataset, name, value):
    """The bytes themselves: decoding would lose what is not in the character set that the source states."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag, kind = Tag(tag_for_keyword(name)), dictionary_VR(name)
    if len(value) % 2:
        value += b"\0" if kind == "UI" else b" "
    dataset[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)


def _state_loss(dataset, stated, size):
    """Once something was lost, no later image is without loss; where nothing is known, nothing is said."""
    method = _LOSSY_METHODS.get(stated["TransferSyntaxUID"].strip(_PADDING).decode("latin-1"))
    if method and stated["LossyImageCompression"].strip(_PADDING) != b"01":
        rows, columns, bits = (int.from_bytes(stated[name], "little") for name in ("Rows", "Columns", "BitsAllocated"))
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", method
        dataset.LossyImageCompressionRatio = f"{rows * columns * bits / 8 / size:.2f}"
        return
    for name in _OF_LOSS:
        if stated[name]:
            _put(dataset, name, stated[name])
