"""What decodes the pixels of a DICOM file, by its transfer syntax: the same whatever else is installed.

pydicom itself tries whatever is, GDCM first. That ends the process on damaged lossless JPEG, and on sound of 7 bits.
"""

import contextlib
import importlib.util

import numpy as np

from descargan_tf.data import extended_jpeg, lossless_jpeg
from descargan_tf.errors import UserError

# pydicom's names of its decoders, in the order in which they are tried.
_OF_JPEG = ("pillow", "pyjpegls")
_OF_OTHERS = ("pylibjpeg", "pillow", "pydicom")
# JPEG of retired processes, which pydicom does not know and Pillow reads: spectral selection, full progression.
_RETIRED = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
_NO_DECODER = (
    "is compressed ({}), and no installed decoder reads that: pip install -r requirements-medical.txt, or have it "
    "exported without compression"
)


def is_encapsulated(syntax) -> bool:
    """Whether a transfer syntax keeps pixels as a stream of another standard, mostly compressed.

    Raises:
        UserError: nothing that is installed reads it; without the file's name.
    """
    from pydicom.pixels import get_decoder

    if syntax in _RETIRED:
        return True
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _unread(syntax) from None
    if decoder.is_encapsulated and not _decoders(syntax):
        raise _unread(syntax)
    return decoder.is_encapsulated


def decode(dataset, frame: bytes | None, bits: int) -> np.ndarray:
    """The stored values, [H, W], with whatever is in the bits above the stored ones.

    Args:
        dataset: a whole file's.
        frame: the only one, where it is encapsulated.
        bits: of a value in it.

    Raises:
        UserError: without the file's name.
    """
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    own = lossless_jpeg if _is_lossless_jpeg(syntax) else None
    if syntax == JPEGExtended12Bit and bits > 8:
        own = extended_jpeg
    if own:
        values = own.decode(frame)
        if values is None:
            raise damaged(syntax)
        num_bytes = int(dataset.BitsAllocated) // 8
        return values.astype(f"u{num_bytes}").view(f"{'i' if dataset.PixelRepresentation else 'u'}{num_bytes}")
    if syntax in _RETIRED:
        if bits > 8:
            raise _unread(syntax)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    for name in ("",) if frame is None else _decoders(dataset.file_meta.TransferSyntaxUID):
        with contextlib.suppress(RuntimeError):  # which pydicom makes of all that goes wrong in a decoder
            return pixel_array(dataset, index=0, correct_unused_bits=False, decoding_plugin=name)
    raise damaged(syntax)


def damaged(syntax) -> UserError:
    """That compressed pixels are, without the file's name."""
    return UserError(f"its pixels are damaged ({_spoken(syntax)})")


def _decoders(syntax):
    """Names of those that are installed for an encapsulated transfer syntax."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    if _is_lossless_jpeg(syntax):
        return ("jpeg-decoder",) if importlib.util.find_spec("pydicom_jpeg_decoder") else ()
    names = _OF_JPEG if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes) else _OF_OTHERS
    return tuple(name for name in names if name in get_decoder(syntax).available_plugins)


def _is_lossless_jpeg(syntax):
    from pydicom.uid import JPEGLossless, JPEGLosslessSV1

    return syntax in (JPEGLossless, JPEGLosslessSV1)


def _unread(syntax):
    return UserError(_NO_DECODER.format(_spoken(syntax)))


def _spoken(syntax):
    """A transfer syntax by its name in the standard; of others nothing is known, and nothing quoted."""
    return syntax.name if syntax.name != str(syntax) else "of an unknown kind"
