"""DICOM films: values as the standard means them, compressed ones, and headers that contradict."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from cxrjax.data import dicom_file, reading
from cxrjax.errors import UserError
from tests.films import blown, chest, compressed, dataset, dicom, lut, needs_decoders, small

FILM = chest()
TWELVE = FILM.astype(np.uint16) * 16
WINDOW = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}


def put(tmp_path, data):
    path = tmp_path / "film.dcm"
    path.write_bytes(data)
    return path


def close(image, expected=FILM):
    return abs(image.astype(int) - expected).max() <= 1


STORED = blown(np.array([[0, 1000, 2000, 3000, 4000, 4095]], np.uint16))


@pytest.mark.parametrize("tags, expected", [
    # no window: the bits that the film uses
    ({}, [0, 62, 125, 187, 249, 255]),
    ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 193, 130, 68, 6, 0]),
    ({"PresentationLUTShape": "INVERSE"}, [255, 193, 130, 68, 6, 0]),
    # as the standard wants it of MONOCHROME1: one inversion, not two
    ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
     [255, 193, 130, 68, 6, 0]),
    # LINEAR: (x - (c - .5)) / (w - 1) + .5, clipped: 2000 -> 0.50025
    ({"WindowCenter": 2000, "WindowWidth": 2001}, [0, 0, 128, 255, 255, 255]),
    ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"},
     [0, 64, 128, 191, 255, 255]),
    # SIGMOID: 1 / (1 + exp(-4 (x - c) / w)); x = 3000: 1 / (1 + e^-1) = .731
    ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
     [30, 69, 128, 186, 225, 227]),
    # the first of several windows, on rescaled values 2 x - 1000
    ({"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [3000, 1],
      "WindowWidth": [4000, 1], "VOILUTFunction": "LINEAR_EXACT"}, [0, 0, 128, 255, 255, 255]),
    # an intercept alone
    ({"RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 4000,
      "VOILUTFunction": "LINEAR_EXACT"}, [0, 64, 128, 191, 255, 255]),
    # a slope below 0 turns the film
    ({"RescaleSlope": -1, "RescaleIntercept": 4095}, [255, 193, 130, 68, 6, 0]),
    # padding is black, in MONOCHROME1 too
    ({"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
     [0, 193, 130, 68, 6, 0]),
    ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, [0, 62, 125, 187, 0, 0]),
    # a width of 1 is a threshold, a width of 0 says nothing
    ({"WindowCenter": 2000, "WindowWidth": 1}, [0, 0, 255, 255, 255, 255]),
    ({"WindowCenter": 2000, "WindowWidth": 0}, [0, 62, 125, 187, 249, 255]),
])
def test_values_become_what_a_viewer_shows(tmp_path, tags, expected):
    path = put(tmp_path, dicom(STORED, BitsStored=12, **tags))
    image, facts = reading.read_radiograph_with_facts(path)
    assert small(image) == [expected]
    mode = tags.get("PhotometricInterpretation", "MONOCHROME2")
    assert (facts.format, facts.mode, facts.bits, facts.used) == ("DICOM", mode, 12, 12)
    assert facts.guessed == (tags.get("WindowWidth", 0) == 0)
    assert ("inverted" in facts.gray) == (mode == "MONOCHROME1" or "PresentationLUTShape" in tags)


def test_a_run_of_before_reads_what_states_no_range_as_it_did(tmp_path):
    values = blown(np.array([[1000, 2000, 3000, 4000]], np.uint16))
    path = put(tmp_path, dicom(values, BitsStored=12))
    assert small(reading.read_radiograph(path, version=1)) == [[0, 85, 170, 255]]
    assert small(reading.read_radiograph(path)) == [[62, 125, 187, 249]]


def test_windows_agree_with_pydicom(tmp_path):
    pixels = np.random.default_rng(0).integers(-2000, 2000, (19, 21)).astype(np.int16)
    for tags in ({}, {"VOILUTFunction": "SIGMOID"}, {"VOILUTFunction": "LINEAR_EXACT"}):
        path = put(tmp_path, dicom(pixels, WindowCenter=40, WindowWidth=350, RescaleSlope=1.5,
                                   RescaleIntercept=-24, **tags))
        film = pydicom.dcmread(path)
        values = pydicom.pixels.apply_modality_lut(film.pixel_array, film)
        shown = pydicom.pixels.apply_voi_lut(values, film)
        low, high = -(2**15) * 1.5 - 24, (2**15 - 1) * 1.5 - 24
        expected = 255 * (shown - low) / (high - low)
        assert abs(reading.read_radiograph(path) - expected).max() <= 0.5 + 1e-9


def test_luts_go_before_windows_and_may_be_narrower_than_they_say(tmp_path):
    values = blown(np.array([[0, 10, 11, 12, 13, 99]], np.uint16))
    entries = np.array([5, 80, 160, 250], np.uint16)
    deep = entries * 16
    for item in (
        lut(10, 8, entries), lut(10, 8, bytes(entries.astype(np.uint8)), 4),
        lut(10, 8, entries.tobytes(), 4),  # words, although the entries have 8 bits
        lut(10, 16, entries), lut(10, 12, deep), lut(10, 16, deep), lut(10, 16, deep, 400),
    ):
        path = put(tmp_path, dicom(values, VOILUTSequence=[item], WindowCenter=1, WindowWidth=1))
        image = reading.read_radiograph(path).astype(int)
        assert abs(image[::20, ::20] - [[5, 5, 80, 160, 250, 250]]).max() <= 1
    # the first entry is for a value below 0; its sign may be lost
    signed = values.astype(np.int16) - 20
    for first in (-10, 65526):
        item = lut(first, 8, entries)
        item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
        path = put(tmp_path, dicom(signed, VOILUTSequence=[item]))
        assert small(reading.read_radiograph(path)) == [[5, 5, 80, 160, 250, 250]]
    # a modality LUT, then a window on what it gives
    table = lut(10, 16, [100, 200, 300, 400])
    path = put(tmp_path, dicom(values, ModalityLUTSequence=[table], WindowCenter=250,
                               WindowWidth=300, VOILUTFunction="LINEAR_EXACT"))
    assert small(reading.read_radiograph(path)) == [[0, 0, 85, 170, 255, 255]]


def test_padding_has_the_sign_of_the_pixels(tmp_path):
    signed = TWELVE.astype(np.int16) - 2048
    signed[:, :30] = -3000
    expected = FILM.copy()
    expected[:, :30] = 0
    for value, vr in ((-3000, "SS"), (65536 - 3000, "US")):
        film = dataset(signed, WindowCenter=0, WindowWidth=4096)
        film.add_new("PixelPaddingValue", vr, value)
        buffer = io.BytesIO()
        film.save_as(buffer, enforce_file_format=True)
        image, facts = reading.read_radiograph_with_facts(put(tmp_path, buffer.getvalue()))
        assert close(image, expected) and "without its padding" in facts.gray
        film.PhotometricInterpretation = "MONOCHROME1"
        buffer = io.BytesIO()
        film.save_as(buffer, enforce_file_format=True)
        image = reading.read_radiograph(put(tmp_path, buffer.getvalue()))
        assert (image[:, :30] == 0).all() and close(image[:, 30:], 255 - FILM[:, 30:])
    with pytest.raises(UserError, match="every pixel is padding"):
        film = dataset(np.full((40, 40), -5, np.int16))
        film.add_new("PixelPaddingValue", "SS", -5)
        buffer = io.BytesIO()
        film.save_as(buffer, enforce_file_format=True)
        reading.read_radiograph(put(tmp_path, buffer.getvalue()))


def test_only_the_stored_bits_count(tmp_path):
    overlay = TWELVE | np.where(np.arange(112) % 2, 0x8000, 0).astype(np.uint16)
    assert close(reading.read_radiograph(put(tmp_path, dicom(overlay, **WINDOW))))
    signed = ((TWELVE.astype(np.int16) - 2048) & 0x0FFF).astype(np.int16)  # bits above are not set
    path = put(tmp_path, dicom(signed, BitsStored=12, WindowCenter=0, WindowWidth=4096))
    assert close(reading.read_radiograph(path))
    high = dataset(TWELVE << 4, **WINDOW)
    high.HighBit = 15
    buffer = io.BytesIO()
    high.save_as(buffer, enforce_file_format=True)
    assert close(reading.read_radiograph(put(tmp_path, buffer.getvalue())))


@pytest.mark.parametrize("syntax", [
    ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
])
def test_other_syntaxes_of_the_file(tmp_path, syntax):
    pixels = TWELVE.astype(">u2") if syntax == ExplicitVRBigEndian else TWELVE
    buffer = io.BytesIO()
    dataset(pixels, syntax=syntax, **WINDOW).save_as(buffer, enforce_file_format=True)
    assert close(reading.read_radiograph(put(tmp_path, buffer.getvalue())))


def test_a_file_that_starts_with_its_first_element(tmp_path):
    for start in (132, 132 + 12 + struct.unpack("<I", dicom(TWELVE, **WINDOW)[140:144])[0]):
        path = put(tmp_path, dicom(TWELVE, **WINDOW)[start:])
        assert close(reading.read_radiograph(path))


def test_8_bits_without_a_window_are_left_alone(tmp_path):
    image, facts = reading.read_radiograph_with_facts(put(tmp_path, dicom(FILM)))
    np.testing.assert_array_equal(image, FILM)
    assert facts.gray == "as stored" and not facts.guessed


def test_colour_and_palettes(tmp_path):
    for pixels, stored in ((FILM, 8), (TWELVE, 16), (TWELVE, 12), (FILM * np.uint16(257), 16)):
        colour = np.repeat(pixels[..., None], 3, 2)
        image, facts = reading.read_radiograph_with_facts(
            put(tmp_path, dicom(colour, BitsStored=stored))
        )
        assert close(image) and facts.mode == "RGB" and not facts.warnings
        planes = dicom(np.ascontiguousarray(colour.transpose(2, 0, 1)), BitsStored=stored,
                       Rows=128, Columns=112, SamplesPerPixel=3, PlanarConfiguration=1,
                       PhotometricInterpretation="RGB")
        assert close(reading.read_radiograph(put(tmp_path, planes)))
    table = (np.arange(256)[::-1] * 257).astype(np.uint16)
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    palette = dicom(FILM, PhotometricInterpretation="PALETTE COLOR", **tags)
    assert close(reading.read_radiograph(put(tmp_path, palette)), 255 - FILM)


def without(keyword, **tags):
    film = dataset(TWELVE, **WINDOW, **tags)
    del film[keyword]
    return film


def floats():
    film = without("PixelData", BitsAllocated=32)
    film.FloatPixelData = (FILM / 255).astype(np.float32).tobytes()
    return film


@pytest.mark.parametrize("film, reason", [
    (dataset(np.stack([FILM] * 3), NumberOfFrames=3), "3 frames in one DICOM file"),
    (dataset(TWELVE, RescaleSlope="0", RescaleIntercept="0"), "Rescale Slope is 0"),
    (dataset(TWELVE, RescaleSlope="1e999"), "RescaleSlope is not a finite number"),
    (dataset(np.stack([TWELVE] * 3, -1), PhotometricInterpretation="MONOCHROME2"),
     "MONOCHROME2 with 3 samples a pixel"),
    (dataset(TWELVE, PhotometricInterpretation="RGB"), "RGB with 1 samples a pixel"),
    (dataset(TWELVE, PhotometricInterpretation="HSV"), "in HSV is not a film"),
    (without("PhotometricInterpretation"), "does not say its Photometric Interpretation"),
    (without("PixelData"), "header without pixels"), (without("Rows"), "without a picture in it"),
    (floats(), "Float Pixel Data"),
    (dataset(TWELVE, BitsStored=12, HighBit=5), "contradict each other"),
    (dataset(TWELVE, VOILUTFunction="WAVY", WindowCenter=5, WindowWidth=5), "unknown VOI LUT"),
    (dataset(TWELVE, BitsStored=12, WindowCenter=-5000, WindowWidth=10),
     "a blank film: every pixel is gray level 255 .read by window -5000/10 .LINEAR"),
    (dataset(TWELVE, PhotometricInterpretation="PALETTE COLOR"), "without its palette"),
    (dataset(np.zeros((40, 40), np.uint16)), "a blank film"),
], ids=lambda value: value[:40] if isinstance(value, str) else "film")
def test_refused_in_one_line_with_the_reason(tmp_path, film, reason):
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    with pytest.raises(UserError, match=f"film.dcm: .*{reason}") as caught:
        reading.read_radiograph(put(tmp_path, buffer.getvalue()))
    assert "\n" not in str(caught.value)


def test_truncated_or_no_dicom_whatever_the_name(tmp_path):
    data = dicom(TWELVE, **WINDOW)
    for length in range(140, len(data), 997):
        with pytest.raises(UserError, match="film.dcm"):
            reading.read_radiograph(put(tmp_path, data[:length]))
    with pytest.raises(UserError, match="film.dcm: not a .*a text file"):
        reading.read_radiograph(put(tmp_path, b"no film at all, whatever the name says"))


# --- bounded memory ----------------------------------------------------------------------------


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    whole = dicom(TWELVE, syntax=DeflatedExplicitVRLittleEndian, **WINDOW)
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 1 << 29))
    for _ in range(32):
        body += squeeze.compress(bytes(1 << 24))
    path = put(tmp_path, whole[:start] + body + squeeze.flush())
    tracemalloc.start()
    with pytest.raises(UserError, match="unpack to more than 128 MB"):
        reading.read_radiograph(path)
    assert tracemalloc.get_traced_memory()[1] < 400 * 2**20
    tracemalloc.stop()


def rle(*segments):
    offsets = np.cumsum([64, *map(len, segments)])[:-1]
    header = [len(segments), *offsets.tolist(), *[0] * (15 - len(segments))]
    return struct.pack("<16I", *header) + b"".join(segments)


def test_compressed_frames_must_be_what_the_header_says(tmp_path):
    syntax = pydicom.uid.RLELossless
    runs = b"".join(bytes([257 - 112, int(row[0])]) for row in FILM)  # 112 times the first of a row
    path = put(tmp_path, compressed(rle(runs), FILM, syntax))
    np.testing.assert_array_equal(reading.read_radiograph(path), np.repeat(FILM[:, :1], 112, 1))
    bomb = rle(b"\x81\x07" * 10_000)  # 20 KB that unpack to 1.3 MB, for 14,336 pixels
    with pytest.raises(UserError, match="RLE data unpack to more than its pixels"):
        reading.read_radiograph(put(tmp_path, compressed(bomb, FILM, syntax)))
    for kind, syntax in (("JPEG", pydicom.uid.JPEGBaseline8Bit),
                         ("JPEG2000", pydicom.uid.JPEG2000Lossless)):
        buffer = io.BytesIO()
        Image.fromarray(FILM).save(buffer, kind)
        path = put(tmp_path, compressed(buffer.getvalue(), FILM, syntax))
        assert abs(reading.read_radiograph(path).astype(int) - FILM).mean() < 5
        larger = compressed(buffer.getvalue(), FILM[:100], syntax)
        with pytest.raises(UserError, match="its header says 112x100 .* pixels 112x128"):
            reading.read_radiograph(put(tmp_path, larger))
        cut = buffer.getvalue()[: len(buffer.getvalue()) // 2] + b"\xff\xd9"
        with pytest.raises(UserError, match="film.dcm: (truncated|damaged)"):
            reading.read_radiograph(put(tmp_path, compressed(cut, FILM, syntax)))
        with pytest.raises(UserError, match="film.dcm: damaged: its pixels are not what"):
            reading.read_radiograph(put(tmp_path, compressed(b"no frame" * 9, FILM, syntax)))


# --- compressed, with and without the decoders -------------------------------------------------


def lossless_jpeg(pixels):
    """JPEG Lossless (process 14, first predictor) of u8[h, w], by hand: no library writes it."""
    values = pixels.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 128
    bits = []
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        # All sizes 0..8 have codes of 4 bits here: 0000 to 1000.
        bits.append(f"{size:04b}")
        if size:
            bits.append(f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    body = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = pixels.shape
    table = bytes([0, 0, 0, 0, 9, *[0] * 12]) + bytes(range(9))
    return b"".join((
        b"\xff\xd8", b"\xff\xc3", struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0),
        b"\xff\xc4", struct.pack(">H", 2 + len(table)), table,
        b"\xff\xda", struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0), body, b"\xff\xd9",
    ))


LOSSLESS = compressed(lossless_jpeg(FILM), FILM, pydicom.uid.JPEGLosslessSV1)


def test_without_decoders_the_message_says_what_to_install(tmp_path, monkeypatch):
    def none(*_, **__):
        raise RuntimeError("Unable to decompress: all plugins are missing dependencies")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", none)
    monkeypatch.setattr(dicom_file, "_has_decoders", lambda: False)
    with pytest.raises(UserError, match=r"JPEG Lossless.*pip install \"cxrjax\[dicom\]\""):
        reading.read_radiograph(put(tmp_path, LOSSLESS))


@needs_decoders
def test_lossless_jpeg_is_read_with_the_decoders(tmp_path):
    np.testing.assert_array_equal(reading.read_radiograph(put(tmp_path, LOSSLESS)), FILM)


@needs_decoders
def test_every_syntax_has_a_decoder():
    from pydicom.pixels import get_decoder

    for name in ("JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLossless", "JPEGLosslessSV1",
                 "JPEGLSLossless", "JPEGLSNearLossless", "JPEG2000Lossless", "JPEG2000", "HTJ2K",
                 "HTJ2KLossless", "HTJ2KLosslessRPCL", "RLELossless"):
        assert get_decoder(getattr(pydicom.uid, name)).is_available, name
