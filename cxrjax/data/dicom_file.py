"""What is in a DICOM file: its header, its pixels as stored. With `dicom`, what knows pydicom."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from cxrjax.data import codestreams
from cxrjax.data.unreadable import MAX_BYTES, Unreadable, check_size

DECODERS = 'pip install "cxrjax[dicom]"'

# Only these are kept while a file is read: one with a million private elements stays small.
_TAGS = (
    "SOPClassUID", "Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation",
    "SeriesDescription", "AnatomicRegionSequence", "ViewCodeSequence", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "PixelIntensityRelationshipSign",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
# At the peak of decoding, measured: bytes for each byte of the pixels (what pydicom and we copy),
# and for each sample of a compressed picture (the decoders' own arrays).
_COST_PLAIN, _COST_COMPRESSED = 3.2, 12


def read(data: bytes) -> Any:
    """The data set of a film: what `_TAGS` names.

    Raises:
      Unreadable: a directory, a report, a file that was cut off: no picture.
    """
    import pydicom

    _be_quiet(pydicom)
    if data[128:132] != b"DICM":
        data = bytes(128) + b"DICM" + data if data[:2] == b"\x02\x00" else data
    film = _inflated(data) if _syntax_of(data) == _DEFLATED else pydicom.dcmread(
        io.BytesIO(data), force=True, specific_tags=list(_TAGS)
    )
    kind = film.get("SOPClassUID") or film.file_meta.get("MediaStorageSOPClassUID") or ""
    name = getattr(kind, "name", "")
    if str(kind) == _DIRECTORY:
        raise Unreadable("the table of contents of a DICOM medium, not a film")
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in film:
            raise Unreadable(
                "its pixels are floating-point numbers (Float Pixel Data), which say no gray: "
                "export the film with integer pixels"
            )
    if "Rows" not in film or "Columns" not in film or "BitsAllocated" not in film:
        what = f" ({name})" if name and name != str(kind) else ""
        raise Unreadable(
            f"a DICOM file without a picture in it{what}, truncated, or not DICOM at all"
        )
    if "PixelData" not in film:
        raise Unreadable("a DICOM header without pixels: truncated, or not a picture")
    if "TransferSyntaxUID" not in film.file_meta:
        film.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if film.original_encoding[0]
            else pydicom.uid.ExplicitVRLittleEndian if film.original_encoding[1]
            else pydicom.uid.ExplicitVRBigEndian
        )  # fmt: skip
    return film


def _be_quiet(pydicom: Any) -> None:
    """What is wrong with a file is for us to say, in one line; pydicom warns of much else."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.logger.setLevel("CRITICAL")


def _syntax_of(data: bytes) -> str:
    """The transfer syntax by the file's meta information; '' where it has none."""
    from pydicom.filereader import read_dataset

    if data[128:132] != b"DICM":
        return ""
    meta = read_dataset(
        io.BytesIO(data[132 : 132 + 2**16]), is_implicit_VR=False, is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    return str(meta.get("TransferSyntaxUID") or "")


def _inflated(data: bytes) -> Any:
    """A deflated data set. pydicom would unpack it whole, whatever its size; not more than fits."""
    from pydicom import uid
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.filereader import read_dataset

    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    limit = MAX_BYTES // 5
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = unpack.decompress(data[stream.tell() :], limit)
    except zlib.error as error:
        raise Unreadable(f"damaged: its deflated part cannot be unpacked ({error})") from None
    if not unpack.eof:
        if len(plain) < limit:
            raise Unreadable("truncated: its deflated part has no end; fetch it again")
        raise Unreadable(
            f"{len(data):,} bytes that unpack to more than {limit >> 20} MB, which no film has"
        )
    elements = read_dataset(
        io.BytesIO(plain), is_implicit_VR=False, is_little_endian=True,
        specific_tags=_base_tags(),
    )
    film = FileDataset(
        None, elements, file_meta=FileMetaDataset(meta), is_implicit_VR=False,
        is_little_endian=True,
    )  # fmt: skip
    film.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return film


def _base_tags() -> list[Any]:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return [Tag(tag_for_keyword(keyword)) for keyword in _TAGS]


def numbers(film: Any, keyword: str) -> list[float]:
    """The values of an element as finite numbers; [] where it is absent or empty.

    Raises:
      Unreadable: something else stands there.
    """
    try:
        value = film.get(keyword)
        if value is None or value == "":
            return []
        listed = list(value) if np.iterable(value) and not isinstance(value, str) else [value]
        found = [float(v) for v in listed]
    except (TypeError, ValueError, OverflowError, NotImplementedError, AttributeError):
        raise Unreadable(f"damaged: its {keyword} is not a number") from None
    if not np.isfinite(found).all():
        raise Unreadable(f"damaged: its {keyword} is not a finite number")
    return found


def text(film: Any, keyword: str) -> str:
    """The value of an element as text, several joined by a backslash; '' where it is absent."""
    try:
        value = film.get(keyword)
    except Exception:  # a header that is of no use to the pixels need not be right
        return ""
    if value is None:
        return ""
    parts = value if np.iterable(value) and not isinstance(value, str) else [value]
    return "\\".join(str(part) for part in parts).strip().replace("\0", "")


def _meaning(film: Any, keyword: str) -> str:
    try:
        return str(film.get(keyword)[0].CodeMeaning)
    except Exception:
        return ""


def facts(film: Any) -> dict[str, Any]:
    """What the header says of the film, checked as far as the pixels depend on it."""

    def whole(keyword: str, default: int | None = None) -> int:
        found = numbers(film, keyword)
        if not found and default is None:
            raise Unreadable(f"damaged: its header has no {keyword}")
        return int(found[0] if found else default)

    frames = whole("NumberOfFrames", 1)
    if frames > 1:
        raise Unreadable(f"{frames} frames in one DICOM file; give one film a file")
    height, width = whole("Rows"), whole("Columns")
    allocated = whole("BitsAllocated")
    stored = whole("BitsStored", allocated)
    high = whole("HighBit", stored - 1)
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated or not (
        stored - 1 <= high < allocated
    ):
        raise Unreadable(
            f"Bits Allocated {allocated}, Bits Stored {stored} and High Bit {high} contradict each "
            "other; export the film again"
        )
    samples = whole("SamplesPerPixel", 1)
    check_size(height, width)
    spacing = [0.0, 0.0]
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        try:
            spacing = numbers(film, keyword)
        except Unreadable:
            continue
        if len(spacing) == 2 and min(spacing) > 0:
            break
        spacing = [0.0, 0.0]
    return {
        "mode": text(film, "PhotometricInterpretation").upper(),
        "bits": stored, "height": height, "width": width,
        "samples": samples, "allocated": allocated, "high_bit": high,
        "signed": whole("PixelRepresentation", 0) == 1,
        "syntax": film.file_meta.TransferSyntaxUID.name,
        "modality": text(film, "Modality").upper(),
        "body_part": text(film, "BodyPartExamined") or _meaning(film, "AnatomicRegionSequence"),
        "view": text(film, "ViewPosition") or _meaning(film, "ViewCodeSequence"),
        "series": text(film, "SeriesDescription"),
        "orientation": text(film, "PatientOrientation").upper(),
        "aspect": spacing[0] / spacing[1] if spacing[1] else 1.0,
    }  # fmt: skip


def pixels_of(film: Any, data: bytes, said: dict[str, Any]) -> np.ndarray:
    """The pixels as they are stored, with the bits above Bits Stored as they are in the file.

    Raises:
      Unreadable: compressed without a decoder for it, more memory than a film may take, or a
        codestream that says something else than the header.
    """
    import pydicom.pixels

    syntax = film.file_meta.TransferSyntaxUID
    size = said["height"], said["width"]
    plain = not syntax.is_encapsulated
    held = len(film.PixelData) + len(data)
    cost = _COST_PLAIN * max(8, said["allocated"]) // 8 if plain else _COST_COMPRESSED
    check_size(*size, said["samples"] * cost, held)
    frame = b"" if plain else _check_frame(film, said)
    # For RLE pydicom's own decoder: pylibjpeg-rle ends the program on some damaged films.
    plugin = {"decoding_plugin": "pydicom"} if syntax == pydicom.uid.RLELossless else {}
    try:
        pixels = pydicom.pixels.pixel_array(film, correct_unused_bits=False, **plugin)
        if frame[:2] == b"\xff\xd8":
            _check_is_whole(film, frame, pixels)
        return pixels
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error)
    lacks = "missing dependencies" in reason or "does not support" in reason
    if lacks and not _has_decoders():
        raise Unreadable(f"DICOM compressed as {syntax.name}, which needs a decoder: {DECODERS}")
    if lacks or "not supported" in reason or "no decoder" in reason.lower():
        raise Unreadable(f"DICOM compressed as {syntax.name}, which cannot be read; decompress it")
    raise Unreadable(f"damaged: its pixels, compressed as {syntax.name}, cannot be decoded")


def _check_is_whole(film: Any, frame: bytes, pixels: np.ndarray) -> None:
    """As `codestreams.check_jpeg_is_whole`, by the decoder that gave `pixels`.

    Decoders of lossless JPEG, of JPEG-LS and of 12 bits fill in what is missing each in its own
    way, so nothing less than a second decoding tells. Pillow's tells for the usual 8 bits.
    """
    import pydicom.pixels
    from pydicom import encaps

    header, end = codestreams.jpeg(frame)
    if header.kind in (0xC0, 0xC1, 0xC2) and header.bits == 8:
        shown = np.asarray(Image.open(io.BytesIO(frame), formats=("JPEG",)))
        codestreams.check_jpeg_is_whole(frame, shown)
        return
    filled = encaps.encapsulate([frame[:end] + codestreams.FILLER + b"\xff\xd9"])
    kept, film.PixelData = film.PixelData, filled
    try:
        again = pydicom.pixels.pixel_array(film, correct_unused_bits=False)
    except Exception:  # whatever a decoder makes of bytes that it took for pixels
        # CharLS takes no bytes too many, and none too few: what it read was whole.
        again = pixels if header.kind == 0xF7 else None
    film.PixelData = kept
    if again is None or not np.array_equal(again, pixels):
        raise Unreadable("truncated: its JPEG was cut off and closed with an end marker")


def _has_decoders() -> bool:
    try:
        import libjpeg  # noqa: F401
        import openjpeg  # noqa: F401
    except ImportError:
        return False
    return True


def _check_frame(film: Any, said: dict[str, Any]) -> bytes:
    """The compressed frame, its own header compared with the file's before a decoder trusts it."""
    from pydicom import encaps, uid

    syntax = film.file_meta.TransferSyntaxUID
    if said["high_bit"] != said["bits"] - 1:
        raise Unreadable(
            f"High Bit {said['high_bit']} with {said['bits']} Bits Stored in a compressed film: "
            "decompress it"
        )
    frame = encaps.get_frame(film.PixelData, 0, number_of_frames=1)
    needed = said["height"] * said["width"] * said["samples"] * max(8, said["allocated"]) // 8
    if syntax == uid.RLELossless:
        if codestreams.rle_length(frame, 2 * needed + 4096) > 2 * needed + 4096:
            raise Unreadable("damaged: its RLE data unpack to more than its pixels")
        return frame
    if frame[:2] == b"\xff\xd8":
        header, _ = codestreams.jpeg(frame)
    elif b"\xff\x4f\xff\x51" in frame[:4096]:
        header = codestreams.jpeg2000(frame)
    elif syntax.is_compressed:
        raise Unreadable(f"damaged: its pixels are not what {syntax.name} has; fetch it again")
    found = header.height, header.width, header.samples
    if found != (said["height"], said["width"], said["samples"]):
        raise Unreadable(
            f"its header says {said['width']}x{said['height']} pixels of {said['samples']} samples,"
            f" its compressed pixels {header.width}x{header.height} of {header.samples}"
        )
    if header.bits > said["allocated"]:
        raise Unreadable(
            f"Bits Allocated is {said['allocated']}, its compressed pixels have {header.bits} bits"
        )
    return frame
