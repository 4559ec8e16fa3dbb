"""Reading films of every kind, resizing them, and taking bright artefacts out of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from cxrjax.data import artifacts, preprocess, reading
from cxrjax.errors import UserError


def ramp(height=6, width=8):
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


# --- PNG and JPEG ------------------------------------------------------------------------------


def test_gray_png_comes_back_bit_for_bit(tmp_path):
    path = save(tmp_path / "gray.png", Image.fromarray(ramp()))
    image, facts = reading.read_radiograph_with_facts(path)
    np.testing.assert_array_equal(image, ramp())
    assert (facts.format, facts.mode, facts.bits) == ("PNG", "L", 8)
    assert (facts.height, facts.width) == (6, 8)
    image[0, 0] = 1  # the caller may write into it


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_and_opaque_alpha_give_the_gray_film(tmp_path, mode):
    path = save(tmp_path / "film.png", Image.fromarray(ramp()).convert(mode))
    image, facts = reading.read_radiograph_with_facts(path)
    np.testing.assert_array_equal(image, ramp())
    assert facts.mode == mode


def test_colour_becomes_luma_and_a_palette_its_colours(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    expected = [[76, 150, 29]]  # 0.299 R + 0.587 G + 0.114 B
    film = Image.fromarray(colours)
    assert reading.read_radiograph(save(tmp_path / "a.png", film)).tolist() == expected
    palette = film.convert("P", palette=Image.Palette.ADAPTIVE)
    path = save(tmp_path / "b.png", palette)
    image, facts = reading.read_radiograph_with_facts(path)
    assert image.tolist() == expected
    assert facts.mode == "P"


def test_one_bit_film_is_black_and_white(tmp_path):
    path = save(tmp_path / "bit.png", Image.fromarray(ramp() > 127))
    image, facts = reading.read_radiograph_with_facts(path)
    np.testing.assert_array_equal(image, np.where(ramp() > 127, 255, 0))
    assert (facts.mode, facts.bits) == ("1", 1)


def test_alpha_is_laid_over_black(tmp_path):
    pixels = np.array([[[200, 200], [200, 0], [100, 255]]], np.uint8)
    path = save(tmp_path / "la.png", Image.fromarray(pixels, "LA"))
    image = reading.read_radiograph(path)
    assert image.tolist() == [[157, 0, 100]]  # 200 * 200 / 255 = 156.9
    pixels[..., 1] = 0
    path = save(tmp_path / "nothing.png", Image.fromarray(pixels, "LA"))
    with pytest.raises(UserError, match="nothing.png.*transparent"):
        reading.read_radiograph(path)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0, 257 * 100, 65535], [0, 100, 255]),  # 16 bits used
        ([0, 2048, 4095], [0, 128, 255]),  # 12-bit data in a 16-bit file: 2048 / 4095 * 255 = 127.5
        ([0, 100, 255], [0, 100, 255]),  # 8-bit data in a 16-bit file
        ([100, 3000, 3000], [6, 187, 187]),  # no stretch to the film's own range
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_16_bit_png_is_scaled_by_the_bits_it_uses(tmp_path, values, expected):
    path = save(tmp_path / "deep.png", Image.fromarray(np.array([values], np.uint16)))
    image, facts = reading.read_radiograph_with_facts(path)
    assert image.tolist() == [expected]
    assert facts.bits == 16


def png_bytes(pixels, bits, colour):
    """A PNG written by hand, for what Pillow cannot write. `pixels`: rows of big-endian bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    pixels = np.repeat(np.array([[[0x12FF], [0xFE01]]], np.uint16), 3, axis=2)
    (tmp_path / "deep.png").write_bytes(png_bytes(pixels, 16, 2))
    image, facts = reading.read_radiograph_with_facts(tmp_path / "deep.png")
    assert image.tolist() == [[0x12, 0xFE]]
    assert (facts.mode, facts.bits) == ("RGB", 16)


def test_jpeg_is_read_and_its_orientation_obeyed(tmp_path):
    film = Image.fromarray(np.full((16, 8), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = save(tmp_path / "film.jpg", film, exif=exif)
    image, facts = reading.read_radiograph_with_facts(path)
    assert image.shape == (8, 16)
    assert (facts.format, facts.height, facts.width) == ("JPEG", 16, 8)
    assert abs(image.astype(int) - 90).max() <= 1


def test_the_bytes_decide_not_the_name(tmp_path):
    path = save(tmp_path / "film.dcm", Image.fromarray(ramp()), format="PNG")
    np.testing.assert_array_equal(reading.read_radiograph(path), ramp())


# --- broken files ------------------------------------------------------------------------------


def test_bytes_after_a_jpeg_do_no_harm(tmp_path):
    """Some archives append a thumbnail or padding."""
    path = tmp_path / "film.jpg"
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(path)
    whole = reading.read_radiograph(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    np.testing.assert_array_equal(reading.read_radiograph(path), whole)


def test_deep_colour_that_would_turn_black_is_refused(tmp_path):
    """12-bit data in a 16-bit PNG with alpha: only the high bytes, 0 to 15, could be read."""
    rows = np.zeros((20, 1 + 20 * 4), np.uint8)
    rows[:, 1:].reshape(20, 20, 4)[...] = (0x0F, 0xFF, 0xFF, 0xFF)  # gray 4095, alpha 65535
    header = struct.pack(">IIBBBBB", 20, 20, 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ))
    with pytest.raises(UserError, match="export the film as 16-bit gray"):
        reading.read_radiograph(tmp_path / "deep.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_refused(tmp_path, format):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(noise).save(buffer, format)
    data = buffer.getvalue()
    path = tmp_path / "cut.img"
    path.write_bytes(data)
    assert reading.read_radiograph(path).shape == (24, 24)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="cut.img"):
            reading.read_radiograph(path)


def test_a_flipped_bit_in_a_png_is_found(tmp_path):
    path = save(tmp_path / "film.png", Image.fromarray(ramp()))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="film.png: damaged.*checksum"):
        reading.read_radiograph(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "0 bytes"),
        (b"not a film\n", "not a PNG, JPEG or DICOM film .a text file"),
        (b"BM\x00\x01" * 50, "not a PNG, JPEG or DICOM film"),
    ],
)
def test_what_is_not_a_film_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "film.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"film.png: .*{reason}"):
        reading.read_radiograph(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="gone.png: no such file"):
        reading.read_radiograph(tmp_path / "gone.png")
    with pytest.raises(UserError, match="is a folder"):
        reading.read_radiograph(tmp_path)


@pytest.mark.parametrize("width, height", [(100_000, 100_000), (9000, 9000), (0, 5)])
def test_an_enormous_or_empty_header_is_refused(tmp_path, width, height):
    data = bytearray(png_bytes(np.zeros((1, 1), np.uint16), 16, 0))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    with pytest.raises(UserError, match="bomb.png: .*pixels"):
        reading.read_radiograph(tmp_path / "bomb.png")


# --- DICOM -------------------------------------------------------------------------------------


def write_dicom(path, pixels, **tags):
    pydicom = pytest.importorskip("pydicom")
    film = pydicom.Dataset()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    film.SOPInstanceUID = "1.2.3"
    film.Rows, film.Columns = pixels.shape[-2:]
    film.SamplesPerPixel = 1
    film.BitsAllocated = 8 * pixels.dtype.itemsize
    film.BitsStored = tags.pop("BitsStored", film.BitsAllocated)
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    film.PhotometricInterpretation = "MONOCHROME2"
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for name, value in tags.items():
        setattr(film, name, value)
    film.save_as(path, enforce_file_format=True)
    return path


STORED = np.array([[0, 1000, 2000, 3000, 4000, 4095]], np.uint16)


@pytest.mark.parametrize(
    "tags, expected",
    [
        # no window: the film's own range
        ({}, [0, 62, 125, 187, 249, 255]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 193, 130, 68, 6, 0]),
        # LINEAR: (x - (c - .5)) / (w - 1) + .5, clipped: 2000 -> 0.50025
        ({"WindowCenter": 2000, "WindowWidth": 2001}, [0, 0, 128, 255, 255, 255]),
        # LINEAR_EXACT: (x - c) / w + .5
        (
            {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"},
            [0, 64, 128, 191, 255, 255],
        ),
        # SIGMOID: 1 / (1 + exp(-4 (x - c) / w)); x = 3000: 1 / (1 + e^-1) = .731
        (
            {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
            [30, 69, 128, 186, 225, 227],
        ),
        # the first of several windows; the window applies to rescaled values 2 x - 1000
        (
            {
                "RescaleSlope": 2,
                "RescaleIntercept": -1000,
                "WindowCenter": [3000, 1],
                "WindowWidth": [4000, 1],
                "VOILUTFunction": "LINEAR_EXACT",
            },
            [0, 0, 128, 255, 255, 255],
        ),
        # padding does not take part in the range and is black, in MONOCHROME1 too
        (
            {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
            [0, 255, 173, 90, 8, 0],
        ),
        # a width of 1 is a threshold
        ({"WindowCenter": 2000, "WindowWidth": 1}, [0, 0, 255, 255, 255, 255]),
        # a width of 0 says nothing
        ({"WindowCenter": 2000, "WindowWidth": 0}, [0, 62, 125, 187, 249, 255]),
    ],
)
def test_dicom_becomes_what_a_viewer_shows(tmp_path, tags, expected):
    path = write_dicom(tmp_path / "film.dcm", STORED, BitsStored=12, **tags)
    image, facts = reading.read_radiograph_with_facts(path)
    assert image.tolist() == [expected]
    mode = tags.get("PhotometricInterpretation", "MONOCHROME2")
    assert (facts.format, facts.mode, facts.bits) == ("DICOM", mode, 12)
    assert (facts.height, facts.width) == (1, 6)


def test_dicom_window_agrees_with_pydicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pixels = np.random.default_rng(0).integers(-2000, 2000, (9, 11)).astype(np.int16)
    path = write_dicom(
        tmp_path / "f.dcm", pixels, WindowCenter=40, WindowWidth=350, RescaleSlope=1.5,
        RescaleIntercept=-24,
    )  # fmt: skip
    film = pydicom.dcmread(path)
    values = pydicom.pixels.apply_modality_lut(film.pixel_array, film)
    shown = pydicom.pixels.apply_voi_lut(values, film)
    low, high = -(2**15) * 1.5 - 24, (2**15 - 1) * 1.5 - 24
    expected = 255 * (shown - low) / (high - low)
    assert abs(reading.read_radiograph(path) - expected).max() <= 0.5 + 1e-9


def test_dicom_voi_table_goes_before_the_window(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 10, 8]  # four entries, the first for value 10, of 8 bits
    item["LUTDescriptor"].VR = "US"
    item.LUTData = [5, 80, 160, 250]
    item["LUTData"].VR = "US"
    path = write_dicom(
        tmp_path / "f.dcm", np.array([[0, 10, 11, 12, 13, 99]], np.uint16),
        VOILUTSequence=[item], WindowCenter=1, WindowWidth=1,
    )  # fmt: skip
    assert reading.read_radiograph(path).tolist() == [[5, 5, 80, 160, 250, 250]]


def test_8_bit_dicom_without_a_window_is_left_alone(tmp_path):
    pixels = np.array([[10, 100, 200]], np.uint8)
    path = write_dicom(tmp_path / "film.dcm", pixels)
    assert reading.read_radiograph(path).tolist() == pixels.tolist()
    (tmp_path / "no_suffix").write_bytes(path.read_bytes())
    assert reading.read_radiograph(tmp_path / "no_suffix").tolist() == pixels.tolist()


def test_dicom_with_several_frames_truncated_or_not_dicom(tmp_path):
    path = write_dicom(tmp_path / "many.dcm", np.zeros((3, 4, 5), np.uint8), NumberOfFrames=3)
    with pytest.raises(UserError, match="many.dcm: 3 frames"):
        reading.read_radiograph(path)
    path = write_dicom(tmp_path / "film.dcm", np.zeros((40, 50), np.uint16))
    data = path.read_bytes()
    for length in range(140, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="film.dcm"):
            reading.read_radiograph(path)
    (tmp_path / "text.dcm").write_text("no film at all, whatever the name says")
    with pytest.raises(UserError, match="text.dcm"):
        reading.read_radiograph(tmp_path / "text.dcm")


# --- resizing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 37), (37, 50), (40, 40)])
def test_resize_is_pillows_lanczos(shape):
    film = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    lanczos = Image.Resampling.LANCZOS
    pil = Image.fromarray(film)
    np.testing.assert_array_equal(
        preprocess.resize(film, 24), np.asarray(pil.resize((24, 24), lanczos))
    )
    np.testing.assert_array_equal(
        preprocess.resize(film, 24, "crop"),
        np.asarray(ImageOps.fit(pil, (24, 24), lanczos))
        if shape[0] == shape[1]
        else np.asarray(_centre(pil).resize((24, 24), lanczos)),
    )
    np.testing.assert_array_equal(
        preprocess.resize(film, 24, "pad"), np.asarray(ImageOps.pad(pil, (24, 24), lanczos))
    )


def _centre(pil):
    width, height = pil.size
    side = min(pil.size)
    left, top = (width - side) // 2, (height - side) // 2
    return pil.crop((left, top, left + side, top + side))


def test_resize_leaves_a_film_of_the_right_size_alone():
    film = np.random.default_rng(2).integers(0, 256, (16, 16), np.uint8)
    for fit in preprocess.FITS:
        np.testing.assert_array_equal(preprocess.resize(film, 16, fit), film)
    with pytest.raises(UserError, match="zoom.*stretch"):
        preprocess.resize(film, 16, "zoom")
    with pytest.raises(UserError, match="0 pixels"):
        preprocess.resize(film, 0)


@pytest.mark.parametrize("fit", preprocess.FITS)
def test_mask_and_boxes_follow_their_film(fit):
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:60] = 255
    small = preprocess.resize_mask(mask, 30, fit)
    assert set(np.unique(small)) == {0, 1} and small.dtype == np.uint8
    rows, cols = np.flatnonzero(small.any(1)), np.flatnonzero(small.any(0))
    found = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
    box = preprocess.resize_boxes(np.array([[30.0, 20.0, 60.0, 40.0]]), 60, 90, 30, fit)
    np.testing.assert_allclose(box[0], found, atol=0.5 + 1e-9)
    by_hand = {
        "stretch": [10, 10, 20, 20],
        "pad": [10, 5 + 20 / 3, 20, 5 + 40 / 3],
        "crop": [7.5, 10, 22.5, 20],
    }
    np.testing.assert_allclose(box[0], by_hand[fit])


def test_mask_values_0_1_and_0_255_mean_the_same():
    mask = np.random.default_rng(3).random((20, 20)) > 0.5
    expected = mask.astype(np.uint8)
    for same in (mask, expected, expected * 255, expected * np.uint8(200)):
        np.testing.assert_array_equal(preprocess.resize_mask(same, 20), expected)


def test_boxes_outside_the_crop_have_no_area():
    box = preprocess.resize_boxes(np.array([[0.0, 10.0, 10.0, 20.0]]), 60, 90, 30, "crop")
    assert box[0, 0] == box[0, 2] == 0


# --- bright artefacts --------------------------------------------------------------------------


def literal_scan(row, jump=50, width=40):
    """The definition, pixel by pixel."""
    x = [int(v) for v in row]
    out = list(x)
    c = 1
    while c < len(x):
        goes_on = c + 1
        if x[c] - x[c - 1] >= jump:
            for d in range(c + 1, min(c + width, len(x) - 1) + 1):
                falls = x[d - 1] - x[d] >= jump
                if falls and all(x[k] > x[c - 1] and x[k] > x[d] for k in range(c, d)):
                    for k in range(c, d):
                        out[k] = (x[c - 1] + x[d] + 1) // 2
                    goes_on = d
                    break
        c = goes_on
    return np.array(out, row.dtype)


def clean(row, **options):
    return artifacts.remove_bright_artifacts(np.array([row], np.uint8), **options)[0].tolist()


@pytest.mark.parametrize(
    "row, expected",
    [
        ([100, 150, 100], [100, 100, 100]),  # a step of 50 counts
        ([100, 149, 100], [100, 149, 100]),  # one of 49 does not
        ([100, 151, 102], [100, 151, 102]),  # up 51, but down only 49
        ([100, 180, 180, 101], [100, 101, 101, 101]),  # 100.5 rounds up
        ([200, 200, 100, 100], [200, 200, 100, 100]),  # no rise at the left border
        ([100, 100, 200, 200], [100, 100, 200, 200]),  # no fall before the right border
        ([0, 200, 0, 200, 0], [0, 0, 0, 0, 0]),  # the scan goes on at d
        ([100, 160, 90, 160, 80], [100, 95, 90, 85, 80]),
        # c = 1: d = 3 falls by 90, but 110 is not above x[3]; d = 4 holds: the whole bump
        ([50, 110, 200, 110, 50], [50, 50, 50, 50, 50]),
        # c = 1 is back at x[0] before it falls by 50; c = 4 holds
        ([100, 150, 125, 100, 160, 95], [100, 150, 125, 100, 98, 95]),
        # every mean is of original pixels: the second bar's left end is the first bar's right one
        ([10, 90, 20, 90, 30], [10, 15, 20, 25, 30]),
        ([10], [10]),
        ([10, 200], [10, 200]),
    ],
)
def test_rows_by_hand(row, expected):
    assert clean(row) == expected


def test_width_40_goes_and_41_stays():
    for bar, gone in ((40, True), (41, False)):
        row = [80] * 5 + [180] * bar + [80] * 5
        assert clean(row) == (row if not gone else [80] * len(row))
    assert clean([80, 180, 180, 80], width=1) == [80, 180, 180, 80]
    assert clean([80, 110, 80], jump=30) == [80, 80, 80]


def adversarial_rows(count):
    rng = np.random.default_rng(0)
    for i in range(count):
        kind = i % 5
        length = int(rng.integers(1, 160))
        if kind == 0:  # steps of about the threshold
            steps = rng.choice([-51, -50, -49, 0, 0, 49, 50, 51], length)
            row = 128 + np.cumsum(steps)
            row = np.abs((row + 255) % 510 - 255)
        elif kind == 1:  # plateaus of about the width limit, nested and overlapping
            row = np.repeat(
                rng.integers(0, 6, 9) * 50, rng.choice([1, 2, 3, 19, 39, 40, 41, 42], 9)
            )
        elif kind == 2:  # noise on few levels: many candidates that share pixels
            row = rng.choice([0, 49, 50, 99, 100, 150, 151, 255], length)
        elif kind == 3:  # bumps upon bumps
            row = np.full(length, 40)
            for _ in range(6):
                start, stop = np.sort(rng.integers(0, length + 1, 2))
                row[start:stop] += rng.integers(20, 60)
        else:
            row = rng.integers(0, 256, length)
        yield np.clip(row, 0, 255).astype(np.uint8)


def test_equals_the_literal_scan_on_2000_adversarial_rows():
    changed = 0
    for row in adversarial_rows(2000):
        expected = literal_scan(row)
        np.testing.assert_array_equal(artifacts.remove_bright_artifacts(row[None])[0], expected)
        changed += (expected != row).any()
    assert changed > 500


def test_other_jumps_and_widths_equal_the_literal_scan():
    for row in list(adversarial_rows(200)):
        for jump, width in ((1, 3), (30, 7), (100, 1000)):
            np.testing.assert_array_equal(
                artifacts.remove_bright_artifacts(row[None], jump, width)[0],
                literal_scan(row, jump, width),
            )


def test_films_of_a_batch_are_cleaned_one_by_one(monkeypatch):
    films = np.random.default_rng(5).choice([0, 60, 120, 180], (2, 3, 7, 33)).astype(np.uint8)
    untouched = films.copy()
    together = artifacts.remove_bright_artifacts(films)
    np.testing.assert_array_equal(films, untouched)
    rows = [literal_scan(row) for row in films.reshape(-1, 33)]
    np.testing.assert_array_equal(together.reshape(-1, 33), rows)
    monkeypatch.setattr(artifacts, "_CHUNK_PIXELS", 70)  # rows in chunks of two
    np.testing.assert_array_equal(artifacts.remove_bright_artifacts(films), together)
    strided = np.repeat(films, 2, axis=-1)[..., ::2]
    np.testing.assert_array_equal(artifacts.remove_bright_artifacts(strided), together)


def test_columns_come_after_rows():
    films = np.random.default_rng(6).choice([0, 60, 120, 180], (2, 20, 31)).astype(np.uint8)
    rows = artifacts.remove_bright_artifacts(films)
    expected = artifacts.remove_bright_artifacts(np.ascontiguousarray(rows.swapaxes(1, 2)))
    np.testing.assert_array_equal(
        artifacts.remove_bright_artifacts(films, columns=True), expected.swapaxes(1, 2)
    )
    line = np.full((5, 60), 30, np.uint8)
    line[2] = 230  # a horizontal line: no row sees its ends, every column does
    assert artifacts.remove_bright_artifacts(line).max() == 230
    assert artifacts.remove_bright_artifacts(line, columns=True).max() == 30


def test_thresholds_scale_with_the_depth():
    films = np.random.default_rng(7).choice([0, 49, 50, 99, 100, 151], (8, 90)).astype(np.uint8)
    cleaned = artifacts.remove_bright_artifacts(films, jump=50)
    assert (cleaned != films).any()
    deep = artifacts.remove_bright_artifacts(films.astype(np.uint16) * 257)
    # a mean of two multiples of 257 need not be one: 8 bits round it by at most half a level
    assert abs(deep / 257 - cleaned).max() <= 0.5
    np.testing.assert_array_equal(deep != films * np.uint16(257), cleaned != films)
    # 12-bit data in uint16: 50 of 255 is 802.9 of 4095
    for step, gone in ((802, False), (803, True)):
        row = np.array([[100, 100 + step, 100]], np.uint16)
        assert (artifacts.remove_bright_artifacts(row, bits=12)[0, 1] == 100) == gone
    # signed pixels, whose difference does not fit their own type
    row = np.array([[-30000, 30000, -30000]], np.int16)
    assert artifacts.remove_bright_artifacts(row).tolist() == [[-30000, -30000, -30000]]


def test_bad_thresholds_are_refused():
    film = np.zeros((2, 3), np.uint8)
    for bad in ({"jump": 0}, {"width": 0}):
        with pytest.raises(UserError, match="positive"):
            artifacts.remove_bright_artifacts(film, **bad)


def test_equals_the_literal_scan_on_50_real_films(shared_data):
    paths = sorted((shared_data / "nih" / "images").glob("*.png"))[::26][:50]
    assert len(paths) == 50
    films = np.stack([reading.read_radiograph(path) for path in paths])
    cleaned = artifacts.remove_bright_artifacts(films)
    for film, result in zip(films, cleaned):
        # Rows without any rise of 50 cannot change; the slow scan need not walk them.
        rises = (np.diff(film.astype(int), axis=1) >= 50).any(1)
        np.testing.assert_array_equal(result[~rises], film[~rises])
        for row, fast in zip(film[rises], result[rises]):
            np.testing.assert_array_equal(fast, literal_scan(row))
    assert (cleaned != films).any(axis=(1, 2)).sum() >= 25


def test_real_films_are_read(shared_data):
    path = sorted((shared_data / "nih" / "images_1024").glob("*.png"))[0]
    film = reading.read_radiograph(path)
    assert film.shape == (1024, 1024)
    small = reading.read_radiograph(shared_data / "nih" / "images" / path.name)
    np.testing.assert_array_equal(preprocess.resize(film, 256), small)
