"""Damaged films of every format: one line or a film, never a traceback or a blank, little memory.

    pytest -m slow tests/data/test_mutated_films.py -s
"""

import collections
import random
import resource
import time

import numpy as np
import pydicom
import pytest

from cxrjax.data import reading
from cxrjax.errors import UserError
from tests.data.test_dicom import LOSSLESS, rle
from tests.films import chest, compressed, dicom, picture

FILM = chest(96, 84)
TWELVE = FILM.astype(np.uint16) * 16
WINDOW = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}


def whole_films():
    rows = b"".join(bytes([257 - 84, int(row[40])]) for row in FILM)
    return {
        "png": picture(FILM, "PNG"), "png16": picture(TWELVE, "PNG"),
        "jpeg": picture(FILM, "JPEG"), "progressive": picture(FILM, "JPEG", progressive=True),
        "tiff": picture(TWELVE, "TIFF"), "lzw": picture(FILM, "TIFF", compression="tiff_lzw"),
        "webp": picture(FILM, "WEBP"), "bmp": picture(FILM, "BMP"),
        "jp2": picture(FILM, "JPEG2000", irreversible=False),
        "dicom": dicom(TWELVE, **WINDOW), "no window": dicom(TWELVE),
        "rgb": dicom(np.repeat(FILM[..., None], 3, 2)),
        "deflated": dicom(TWELVE, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian, **WINDOW),
        "rle": compressed(rle(rows), FILM, pydicom.uid.RLELossless),
        "baseline": compressed(picture(FILM, "JPEG"), FILM, pydicom.uid.JPEGBaseline8Bit),
        "j2k": compressed(picture(FILM, "JPEG2000", irreversible=False), FILM,
                          pydicom.uid.JPEG2000Lossless),
        "lossless": LOSSLESS,
    }  # fmt: skip


def mutated(data, rng):
    data = bytearray(data)
    head = min(len(data), 1000)
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(head)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        del data[rng.randrange(1, len(data)) :]
    elif kind == 3:
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 200)]
    elif kind == 4:
        start = rng.randrange(head)
        data[start : start + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\xff\x7f" * 2, b"\1\0\0\0"])
    else:
        start, source = rng.randrange(len(data)), rng.randrange(len(data))
        data[start:start] = data[source : source + rng.randrange(1, 300)]
    return bytes(data)


@pytest.mark.slow
def test_three_thousand_mutated_films(tmp_path):
    rng = random.Random(14)
    films = whole_films()
    path = tmp_path / "film"
    for name, data in films.items():
        path.write_bytes(data)
        if name == "lossless":
            continue  # needs a decoder
        assert reading.read_radiograph(path).shape == FILM.shape, name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, slowest = collections.Counter(), 0.0
    for _ in range(3000):
        name = rng.choice(list(films))
        path.write_bytes(mutated(films[name], rng))
        started = time.monotonic()
        try:
            film, _ = reading.read_radiograph_with_facts(path)
        except UserError as error:
            outcome["refused"] += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            outcome["read"] += 1
            assert film.dtype == np.uint8 and np.ptp(film) > 15, name
        slowest = max(slowest, time.monotonic() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(dict(outcome), f"peak memory grew by {grown:.0f} MB, the slowest took {slowest:.1f} s")
    assert sum(outcome.values()) == 3000
    assert grown < 700 and slowest < 30
