"""Films made for tests: a chest of a few numbers, in every format that is read."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset


def chest(height: int = 128, width: int = 112, seed: int = 0) -> np.ndarray:
    """u8[h, w] that uses 0..255: bright outside and middle, two dark lungs, some grain."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    film = 170 - 40 * y * 0.5 + 50 * np.exp(-((x / 0.18) ** 2))
    for side in (-0.48, 0.48):
        film -= 150 * np.exp(-(((x - side) / 0.28) ** 2 + ((y + 0.05) / 0.55) ** 2) ** 2)
    film += np.random.default_rng(seed).normal(0, 5, film.shape)
    film -= film.min()
    return np.rint(film * (255 / film.max())).astype(np.uint8)


def blown(values, times: int = 20) -> np.ndarray:
    """Every value as a square of `times` pixels: a few numbers as large as a film must be."""
    return np.repeat(np.repeat(np.asarray(values), times, 0), times, 1)


def small(image: np.ndarray, times: int = 20) -> list:
    """The values that `blown` blew up."""
    return image[::times, ::times].tolist()


def picture(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def dataset(pixels: np.ndarray, syntax: str = pydicom.uid.ExplicitVRLittleEndian, **tags):
    """A DICOM data set around integer pixels [h, w], [h, w, 3] or [frames, h, w]."""
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = syntax
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = "1.2.3.4"
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    film.Rows, film.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    film.SamplesPerPixel = 3 if colour else 1
    if colour:
        film.PlanarConfiguration = 0
    film.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    film.BitsAllocated = 8 * pixels.dtype.itemsize
    film.BitsStored = tags.pop("BitsStored", film.BitsAllocated)
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    film.Modality = "DX"
    data = pixels.tobytes()
    film.PixelData = data + bytes(len(data) % 2)
    film["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for name, value in tags.items():
        setattr(film, name, value)
    return film


def dicom(pixels: np.ndarray, **tags) -> bytes:
    """The same as the bytes of a file."""
    buffer = io.BytesIO()
    dataset(pixels, **tags).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(code: bytes, pixels: np.ndarray, syntax: str, **tags) -> bytes:
    """A DICOM file around a compressed frame that shows `pixels`."""
    film = dataset(pixels, syntax=syntax, **tags)
    film.PixelData = pydicom.encaps.encapsulate([code])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lut(first: int, bits: int, data, entries: int | None = None):
    """An item of a VOI or Modality LUT sequence; bytes are stored as OW."""
    item = pydicom.Dataset()
    words = isinstance(data, bytes)
    count = len(data) if entries is None else entries
    item.LUTDescriptor = [count, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = data if words else list(data)
    item["LUTData"].VR = "OW" if words else "US"
    return item


needs_decoders = pytest.mark.skipif(
    not all(map(__import__("importlib").util.find_spec, ("libjpeg", "openjpeg"))),
    reason='the decoders of compressed DICOM are not installed: pip install "cxrjax[dicom]"',
)
