"""DICOM files for tests, as scanners write them; every tag that may identify somebody holds SENTINEL."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

SENTINEL = "QZXSENTINEL"
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


def write(path, dataset):
    """Save a data set, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
