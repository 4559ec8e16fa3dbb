"""What is inside of masks, as programs write them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cxrjax.data import reading
from cxrjax.errors import UserError

INSIDE = np.zeros((60, 80), bool)
INSIDE[10:40, 20:60] = True
LEFT = INSIDE & (np.arange(80) < 40)
Z = np.zeros_like(INSIDE, np.uint8)


def coloured(inside, outside=(0, 0, 0), where=INSIDE):
    return Image.fromarray(np.where(where[..., None], inside, outside).astype(np.uint8))


def palette(index, colours, **options):
    image = Image.fromarray(index.astype(np.uint8), "P")
    image.putpalette([c for colour in colours for c in colour])
    return image


def alpha():
    image = coloured((200, 30, 30), (255, 255, 255)).convert("RGBA")
    image.putalpha(Image.fromarray(INSIDE.astype(np.uint8) * 255))
    return image


def black_on_nothing():
    image = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    image.putalpha(Image.fromarray(INSIDE.astype(np.uint8) * 255))
    return image


@pytest.mark.parametrize("image", [
    Image.fromarray(INSIDE), Image.fromarray(INSIDE.astype(np.uint8)),
    Image.fromarray(INSIDE * np.uint8(255)), Image.fromarray(INSIDE * np.uint8(3)),
    Image.fromarray(1 + INSIDE.astype(np.uint8)),  # classes counted from 1
    Image.fromarray(INSIDE * np.uint16(65535)), Image.fromarray(INSIDE.astype(np.uint16)),
    palette(INSIDE, [(0, 0, 0), (200, 30, 30)]),  # dark red: luma 81
    palette(INSIDE, [(0, 0, 0), (0, 0, 90)]),
    palette(INSIDE, [(255, 255, 0), (0, 0, 200)]),  # no black: number 0 is outside
    palette(1 - INSIDE, [(255, 255, 255), (0, 0, 0)]),  # a gray picture with a palette
    coloured((255, 255, 255)), coloured((0, 0, 120)), coloured((0, 200, 0)).convert("RGBA"),
    alpha(), black_on_nothing(),
], ids=lambda image: image.mode)
def test_one_structure_however_it_was_written(tmp_path, image):
    image.save(tmp_path / "mask.png")
    mask = reading.read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask, INSIDE.astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "BMP"])
def test_other_formats_and_smoothed_edges(tmp_path, kind):
    image = Image.fromarray(INSIDE * np.uint8(255)).filter(ImageFilter.GaussianBlur(0.8))
    image.save(tmp_path / "mask", kind)
    mask = reading.read_mask(tmp_path / "mask")
    assert abs(mask.mean() - INSIDE.mean()) < 0.01
    coloured((180, 20, 20)).filter(ImageFilter.GaussianBlur(0.8)).save(tmp_path / "mask", kind)
    assert abs(reading.read_mask(tmp_path / "mask").mean() - INSIDE.mean()) < 0.01


@pytest.mark.parametrize("image", [
    Image.fromarray(INSIDE.astype(np.uint8) + LEFT), Image.fromarray(INSIDE * np.uint8(100) + LEFT
                                                                     * np.uint8(100)),
    palette(INSIDE.astype(np.uint8) + LEFT, [(0, 0, 0), (200, 0, 0), (0, 200, 0)]),
    Image.fromarray(np.stack([LEFT * np.uint8(255), INSIDE * np.uint8(255) - LEFT * np.uint8(255),
                              Z], -1)),
    Image.fromarray(np.linspace(0, 255, 4800).reshape(60, 80).astype(np.uint8)),
], ids=lambda image: image.mode)
def test_three_where_two_are_expected(tmp_path, image):
    image.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png: a mask of .* is expected|two are expected"):
        reading.read_mask(tmp_path / "mask.png")


def test_empty_full_and_what_is_no_picture(tmp_path):
    for value, inside in ((0, 0), (255, 1), (1, 1)):
        Image.fromarray(Z + np.uint8(value)).save(tmp_path / "mask.png")
        assert (reading.read_mask(tmp_path / "mask.png") == inside).all()
    palette(Z, [(0, 0, 0), (200, 30, 30)]).save(tmp_path / "mask.png")
    assert not reading.read_mask(tmp_path / "mask.png").any()
    (tmp_path / "mask.png").write_text("no mask")
    with pytest.raises(UserError, match="mask.png: not a PNG"):
        reading.read_mask(tmp_path / "mask.png")
    buffer = io.BytesIO()
    Image.fromarray(INSIDE * np.uint8(255)).save(buffer, "PNG")
    (tmp_path / "mask.png").write_bytes(buffer.getvalue()[:60])
    with pytest.raises(UserError, match="truncated"):
        reading.read_mask(tmp_path / "mask.png")
