"""Resizing films, masks and boxes, and taking bright artefacts out of films."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from cxrjax.data import artifacts, preprocess, reading
from cxrjax.errors import UserError

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


@pytest.mark.parametrize("height, width, size, digest", [
    (400, 50, 64, "ff4e0fc2685e"), (300, 70, 64, "9c8a74a04e05"), (2000, 400, 64, "86fd00d4630c"),
    (400, 150, 100, "2b525d90a6a4"), (97, 200, 64, "e56c19bc1cb7"),
])
def test_the_pixels_are_those_of_pillow_12_whatever_is_installed(height, width, size, digest):
    """Digests of its single call; Pillow 13 gives others for the first four."""
    film = (np.add.outer(np.arange(height) * 37, np.arange(width) * 91) % 256).astype(np.uint8)
    assert hashlib.sha256(preprocess.resize(film, size)).hexdigest()[:12] == digest


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
    with pytest.raises(UserError, match="mask of 3 values .0, 1, 2. where two are expected"):
        preprocess.resize_mask(np.array([[0, 1, 2]], np.uint8), 20)


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
