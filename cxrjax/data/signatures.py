"""What a file is, by its first bytes. Names are not looked at."""

from __future__ import annotations

import struct

HEAD = 512  # bytes that are enough to tell

PNG, JPEG, TIFF = "PNG", "JPEG", "TIFF"
WEBP, BMP, JPEG2000, DICOM = "WebP", "BMP", "JPEG 2000", "DICOM"
FILMS = f"{PNG}, {JPEG}, {TIFF}, {WEBP}, {BMP}, {JPEG2000} or {DICOM}"

_MAGICS = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"II\x2a\x00", TIFF), (b"MM\x00\x2a", TIFF), (b"II\x2b\x00", TIFF), (b"MM\x00\x2b", TIFF),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", JPEG2000), (b"\xff\x4f\xff\x51", JPEG2000),
)  # fmt: skip
_OTHERS = (
    (b"GIF8", "a GIF picture"), (b"%PDF", "a PDF document"), (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"), (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a file packed with gzip"), (b"BZh", "a file packed with bzip2"),
    (b"\xfd7zXZ\x00", "a file packed with xz"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"), (b"\x93NUMPY", "a NumPy array"), (b"\x89HDF", "an HDF5 file"),
    (b"8BPS", "a Photoshop document"), (b"\xd0\xcf\x11\xe0", "an old office document"),
    (b"\x7fELF", "a program"), (b"MZ", "a program"), (b"SQLite format 3", "a database"),
    (b"\xff\xfe", "a text in UTF-16"), (b"\xfe\xff", "a text in UTF-16"),
    (b"\x00asm", "a program"), (b"OggS", "a sound or film"), (b"RIFF", "a sound or video"),
)  # fmt: skip
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV".split()
)


def kind_of(head: bytes) -> str:
    """The kind of film that begins with `head` (HEAD bytes, or the whole file); '' for none."""
    if head[128:132] == b"DICM":
        return DICOM
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[:2] == b"BM" and len(head) >= 18:
        if struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
            return BMP
    return DICOM if _begins_with_an_element(head) else ""


def _begins_with_an_element(head: bytes) -> bool:
    """Whether a DICOM data set begins here, without the preamble that it should have.

    Its first element is one of group 2 or 8; what follows is its VR in two letters or, in
    implicit VR, a length that a first element can have.
    """
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack_from(f"{order}HH", head)
        if group in (2, 8) and element <= 0x1000 and head[4:6] in _VRS:
            return True
    group, element, length = struct.unpack_from("<HHI", head)
    return group == 8 and element <= 0x70 and length <= 128 and length % 2 == 0


def name_other(head: bytes) -> str:
    """What a file that is no film seems to be, as 'a text file'."""
    if not head:
        return "an empty file"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF picture, or a video"
    if head[344:347] in (b"n+1", b"ni1"):
        return "a NIfTI volume"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "a text file"
    return "something unknown by its first bytes"
