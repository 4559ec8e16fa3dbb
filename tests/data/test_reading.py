"""Pictures of every kind as 8-bit gray, the range that deep ones use, and what is refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import gray, pictures, reading, signatures
from cxrjax.errors import UserError
from tests.films import blown, chest, dicom, picture, small

FILM = chest()
KINDS = {  # format as we call it: Pillow's name and options that lose nothing
    "PNG": ("PNG", {}), "TIFF": ("TIFF", {"compression": "tiff_lzw"}), "BMP": ("BMP", {}),
    "WebP": ("WEBP", {"lossless": True}), "JPEG 2000": ("JPEG2000", {"irreversible": False}),
}  # fmt: skip


def put(tmp_path, data, name="film"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_gray_comes_back_bit_for_bit_whatever_the_file_is_called(tmp_path):
    for kind, (pillow, options) in KINDS.items():
        path = put(tmp_path, picture(FILM, pillow, **options), "film.dcm")
        image, facts = reading.read_radiograph_with_facts(path)
        np.testing.assert_array_equal(image, FILM)
        # WebP has no gray of its own.
        mode = "RGB" if kind == "WebP" else "L"
        assert (facts.format, facts.mode, facts.bits, facts.used) == (kind, mode, 8, 8)
        assert (facts.height, facts.width, facts.gray, facts.guessed) == (128, 112, "as stored",
                                                                         False)
        assert facts.warnings == ()
        image[0, 0] = 1  # the caller may write into it


@pytest.mark.parametrize("mode, kinds", [
    ("RGB", KINDS), ("RGBA", ("PNG", "TIFF", "WebP")), ("LA", ("PNG", "TIFF")), ("P", ("PNG",)),
])
def test_equal_channels_and_opaque_alpha_give_the_gray_film(tmp_path, mode, kinds):
    for kind in kinds:
        pillow, options = KINDS[kind]
        buffer = io.BytesIO()
        Image.fromarray(FILM).convert(mode).save(buffer, pillow, **options)
        np.testing.assert_array_equal(
            reading.read_radiograph(put(tmp_path, buffer.getvalue())), FILM
        )


def test_colour_becomes_luma_and_is_said(tmp_path):
    colours = blown(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    image, facts = reading.read_radiograph_with_facts(put(tmp_path, picture(colours, "PNG")))
    assert small(image) == [[76, 150, 29]]  # 0.299 R + 0.587 G + 0.114 B
    assert "a colour picture, read as gray" in facts.warnings
    buffer = io.BytesIO()
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(buffer, "PNG")
    image, facts = reading.read_radiograph_with_facts(put(tmp_path, buffer.getvalue()))
    assert small(image) == [[76, 150, 29]] and facts.mode == "P"


def test_alpha_is_laid_over_black(tmp_path):
    pixels = blown(np.array([[[200, 200], [200, 0], [100, 255]]], np.uint8), 600)  # several strips
    buffer = io.BytesIO()
    Image.fromarray(pixels, "LA").save(buffer, "PNG")
    image = reading.read_radiograph(put(tmp_path, buffer.getvalue()))
    assert small(image, 600) == [[157, 0, 100]]  # 200 * 200 / 255 = 156.9
    pixels[..., 1] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels, "LA").save(buffer, "PNG")
    with pytest.raises(UserError, match="film: .*transparent"):
        reading.read_radiograph(put(tmp_path, buffer.getvalue()))


def test_one_bit_film_is_black_and_white(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(FILM > 127).save(buffer, "PNG")
    image, facts = reading.read_radiograph_with_facts(put(tmp_path, buffer.getvalue()))
    np.testing.assert_array_equal(image, np.where(FILM > 127, 255, 0))
    assert (facts.mode, facts.bits) == ("1", 1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_an_orientation_tag_is_obeyed(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = put(tmp_path, picture(FILM, kind, exif=exif))
    image, facts = reading.read_radiograph_with_facts(path)
    assert image.shape == (112, 128) and {facts.height, facts.width} == {128, 112}
    np.testing.assert_allclose(image, np.rot90(FILM, -1), atol=40)
    assert abs(image.astype(int) - np.rot90(FILM, -1)).mean() < 4


# --- deep pictures -----------------------------------------------------------------------------


def deep(kind, values, **options):
    return picture(np.asarray(values).astype(np.uint16), kind, **options)


@pytest.mark.parametrize("values, expected, bits", [
    ([0, 257 * 100, 65535], [0, 100, 255], 16),
    ([0, 2048, 4095], [0, 128, 255], 12),  # 12 bits in 16: 2048 / 4095 * 255 = 127.5
    ([0, 100, 255], [0, 100, 255], 8),
    ([100, 3000, 3000], [6, 187, 187], 12),  # no stretch to the film's own range
])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_gray_is_scaled_by_the_bits_it_uses(tmp_path, values, expected, bits, kind):
    path = put(tmp_path, deep(kind, blown([values])))
    for version in (1, 2):
        image, facts = reading.read_radiograph_with_facts(path, version)
        assert small(image) == [expected]
        assert (facts.bits, facts.used, facts.guessed) == (16, bits, True)
    assert facts.gray == f"the range 0..{2**bits - 1} of its values"


def test_a_burned_in_letter_sets_no_scale(tmp_path):
    letter = FILM.astype(np.uint16) * 16
    letter[4:16, 10:50] = 65535  # 3% of the film
    path = put(tmp_path, deep("PNG", letter))
    image = reading.read_radiograph(path)
    assert image[10, 20] == 255
    film = np.delete(image, np.s_[:20], 0).astype(int)
    assert abs(film - np.delete(FILM, np.s_[:20], 0)).max() <= 1
    # as runs were trained with before
    old = reading.read_radiograph(path, version=1)
    np.testing.assert_array_equal(old, np.rint(letter / 257).astype(np.uint8))


def outside(bits, *values):
    """A 12-bit film with `values` on a stroke each, and the bits that it should have."""
    film = FILM.astype(np.uint16) * 16
    for i, value in enumerate(values):
        film.reshape(-1)[i * 40 : i * 40 + 30] = value
    return film, bits


@pytest.mark.parametrize("film, bits", [
    outside(12, 65535), outside(12, 40000, 65535), outside(12, *range(50000, 50010)),
    (FILM.astype(np.uint16) * 257, 16),  # 8 bits spread over 16
    (np.where(FILM > 240, 65535, FILM.astype(int) * 64).astype(np.uint16), 14),
    (FILM.astype(np.uint32) ** 2, 16),  # most of it dark, but nothing is missing in between
    (FILM.astype(np.uint16) << 6, 14), (FILM.astype(np.uint16), 8),
    # Some of it far above the rest, in many values: that is film.
    (np.where(FILM > 180, FILM.astype(int) * 250, FILM.astype(int) * 16).astype(np.uint16), 16),
])  # fmt: skip
def test_bits_of_films_with_and_without_letters(film, bits):
    low, high = gray.used_range(*gray.histogram(film.astype(np.int64)))
    assert (low, high) == (0, 2**bits - 1)


def test_bits_of_signed_and_of_huge_values():
    film = FILM.astype(np.int64) * 16 - 2048
    assert gray.used_range(*gray.histogram(film)) == (-2048, 2047)
    film[0, :10] = 32767
    assert gray.used_range(*gray.histogram(film)) == (-2048, 2047)
    wide = FILM.astype(np.int64) << 22
    assert gray.used_range(*gray.histogram(wide)) == (0, 2**30 - 1)
    # Detector values of a small part of their range are shown by it, but for strays.
    narrow = FILM.astype(np.int64) + 3000
    narrow[0, 0] = 0
    low, high = gray.used_range(*gray.histogram(narrow), stretch=True)
    assert 3000 <= low <= 3060 and 3200 <= high <= 3255


def test_white_is_zero_in_deep_tiff_too(tmp_path):
    # Pillow turns pixels of 8 bits as it writes them, those of 16 it leaves.
    for pixels, expected in ((FILM, FILM), (FILM.astype(np.uint16) * 257, 255 - FILM)):
        data = picture(pixels, "TIFF", tiffinfo={262: 0})
        assert struct.pack("<HHIH", 262, 3, 1, 0) in data
        np.testing.assert_array_equal(reading.read_radiograph(put(tmp_path, data)), expected)


def png_bytes(pixels, bits, colour):
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_deep_colour_keeps_the_high_byte_where_that_shows_anything(tmp_path):
    colour = np.repeat((FILM.astype(np.uint16) * 257)[..., None], 3, 2)
    image, facts = reading.read_radiograph_with_facts(put(tmp_path, png_bytes(colour, 16, 2)))
    np.testing.assert_array_equal(image, FILM)
    assert (facts.mode, facts.bits, facts.gray) == ("RGB", 16, "the high byte of deep colour")
    twelve = np.repeat((FILM.astype(np.uint16) * 16)[..., None], 3, 2)
    marked = twelve.copy()
    marked[4:10, 4:40] = 65535
    for pixels in (twelve, marked):
        with pytest.raises(UserError, match="export the film as 16-bit gray"):
            reading.read_radiograph(put(tmp_path, png_bytes(pixels, 16, 2)))


# --- broken files ------------------------------------------------------------------------------


def test_bytes_after_a_jpeg_do_no_harm(tmp_path):
    """Some archives append a thumbnail or padding."""
    data = picture(FILM, "JPEG", quality=95)
    whole = reading.read_radiograph(put(tmp_path, data))
    for more in (bytes(5000), picture(FILM[:20, :20], "JPEG")):
        np.testing.assert_array_equal(reading.read_radiograph(put(tmp_path, data + more)), whole)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WebP", "BMP", "JPEG 2000"])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    pillow, options = KINDS.get(kind, ("JPEG", {}))
    film = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    data = picture(film, pillow, **options)
    assert reading.read_radiograph(put(tmp_path, data)).shape == (24, 24)
    for length in range(0, len(data), 1 if kind in ("PNG", "JPEG") else 7):
        # What a TIFF ends with does not matter to its pixels.
        if kind == "TIFF" and length >= len(data) - 4:
            continue
        with pytest.raises(UserError, match="film"):
            reading.read_radiograph(put(tmp_path, data[:length]))


@pytest.mark.parametrize("options", [
    {}, {"progressive": True}, {"restart_marker_blocks": 4}, {"quality": 30},
])
@pytest.mark.parametrize("colour", [False, True])
def test_a_jpeg_that_was_cut_and_closed_is_refused(tmp_path, options, colour):
    film = np.repeat(FILM[..., None], 3, 2) if colour else FILM
    flat = film.copy()
    flat[-40:] = 128  # a whole film may end as the decoder ends a broken one
    for pixels in (film, flat):
        data = picture(pixels, "JPEG", **options)
        reading.read_radiograph(put(tmp_path, data))
    data = picture(film, "JPEG", **options)
    for part in (0.4, 0.7, 0.9):
        cut = data[: int(part * len(data))].removesuffix(b"\xff") + b"\xff\xd9"
        with pytest.raises(UserError, match="film: (truncated|damaged)"):
            reading.read_radiograph(put(tmp_path, cut))


def test_a_jpeg_2000_that_was_cut_and_closed_is_refused(tmp_path):
    data = picture(FILM, "JPEG2000", irreversible=False)
    with pytest.raises(UserError, match="film: .*JPEG 2000"):
        reading.read_radiograph(put(tmp_path, data[: len(data) // 2] + b"\xff\xd9"))


def test_a_flipped_bit_in_a_png_is_found(tmp_path):
    data = bytearray(picture(FILM, "PNG"))
    data[data.index(b"IDAT") + 10] ^= 1
    with pytest.raises(UserError, match="film: damaged.*checksum"):
        reading.read_radiograph(put(tmp_path, bytes(data)))


@pytest.mark.parametrize("content, reason", [
    (b"", "0 bytes"),
    (b"not a film\n", "not a PNG, JPEG, .* or DICOM film .a text file"),
    (b"BM\x00\x01" * 50, "not a PNG, JPEG, .* or DICOM film .something unknown"),
    (b"GIF89a" + bytes(50), "a GIF picture"), (b"%PDF-1.4\n" + bytes(50), "a PDF document"),
    (b"PK\x03\x04" + bytes(50), "a ZIP archive"), (b"\xff\xfea\0b\0" * 9, "a text in UTF-16"),
    (picture(np.zeros((40, 40), np.uint8), "PNG"), "a blank film: every pixel is gray level 0"),
    (picture(np.full((40, 40), 9, np.uint8), "BMP"), "a blank film: every pixel is gray level 9"),
    (picture(FILM // 32 + 100, "PNG"), "a nearly blank film: 100.0% of its pixels lie within 16"),
    (picture(np.full((1, 1), 90, np.uint8), "PNG"), "1x1 pixels are too few for a film"),
    (picture(FILM[:15], "PNG"), "112x15 pixels are too few"),
    (picture(np.tile(FILM[:20], (1, 2)), "PNG"), "224x20 pixels are a strip"),
    (picture((FILM / 255).astype(np.float32), "TIFF"), "floating-point numbers"),
])  # fmt: skip
def test_what_is_no_film_is_refused_with_the_reason(tmp_path, content, reason):
    with pytest.raises(UserError, match=f"film.png: .*{reason}"):
        reading.read_radiograph(put(tmp_path, content, "film.png"))


def test_several_pictures_in_one_file_are_refused_with_their_number(tmp_path):
    pages = [Image.fromarray(FILM)] * 3
    for kind, words in (("TIFF", "3 pages in one TIFF"), ("WEBP", "3 frames of an animation")):
        buffer = io.BytesIO()
        changing = [pages[0], Image.fromarray(FILM.T[:128, :112]), Image.fromarray(255 - FILM)]
        changing = [page.resize((112, 128)) for page in changing]
        changing[0].save(buffer, kind, save_all=True, append_images=changing[1:])
        with pytest.raises(UserError, match=words):
            reading.read_radiograph(put(tmp_path, buffer.getvalue()))


def test_missing_file_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in (("gone.png", "gone.png: no such file"), ("", "is a folder"),
                        ("pipe.png", "is a device or a pipe")):
        with pytest.raises(UserError, match=words):
            reading.read_radiograph(tmp_path / name)


@pytest.mark.parametrize("width, height", [(100_000, 100_000), (9000, 9000), (0, 5)])
def test_an_enormous_or_empty_header_is_refused(tmp_path, width, height):
    data = bytearray(png_bytes(np.zeros((1, 1), np.uint16), 16, 0))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(UserError, match="bomb.png: .*pixels"):
        reading.read_radiograph(put(tmp_path, bytes(data), "bomb.png"))


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "film.png"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)  # sparse
    with pytest.raises(UserError, match="256 that the file of one film may have"):
        reading.read_radiograph(path)


def test_a_version_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match="dataset.reading = 9: .* 1 to 2"):
        reading.read_radiograph(put(tmp_path, picture(FILM, "PNG")), version=9)
    assert reading.version_of({}) == 1 and reading.version_of({"reading": 2}) == 2


def test_first_bytes_of_what_has_no_magic():
    explicit = dicom(FILM)
    bare = explicit[132:]
    assert signatures.kind_of(explicit) == signatures.kind_of(bare) == "DICOM"
    assert signatures.kind_of(b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100") == "DICOM"  # implicit
    assert signatures.kind_of(b"\x00\x08\x00\x05CS\x00\x0aISO_IR 100") == "DICOM"  # big-endian
    for other in (b"", b"\x08", bytes(600), b"\x08\x00" + b"\xff" * 40, b"BMW and other cars ..."):
        assert signatures.kind_of(other) == ""


def test_pixels_that_are_not_square_are_said(tmp_path):
    for kind in ("PNG", "JPEG", "TIFF"):
        for dpi, said in (((100, 200), True), ((200, 200), False), (None, False)):
            options = {"dpi": dpi} if dpi else {}
            path = put(tmp_path, picture(FILM, kind, **options))
            _, facts = reading.read_radiograph_with_facts(path)
            assert any("not square" in line for line in facts.warnings) == said, (kind, dpi)
    with pytest.raises(UserError, match="not square .0.5 times.*refused by --strict"):
        reading.read_radiograph(put(tmp_path, picture(FILM, "PNG", dpi=(100, 200))), strict=True)


def test_memory_is_bounded_by_what_a_kind_takes():
    for kind in signatures.FILMS.replace(" or ", ", ").split(", ")[:-1]:
        assert kind in pictures._COST
