"""What is shown of a film: geometry and grays by hand, and the picture of a part of a film."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from cxrjax.explanation import drawing
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.serving import looking, view
from cxrjax.serving.looking import Network, Reading
from cxrjax.serving.view import View

LABELS = ("Mass", "Pleural_Thickening", "Edema")


def reading(shape=(60, 80), fit="stretch", mask=None):
    rng = np.random.default_rng(3)
    film = rng.integers(0, 256, shape, dtype=np.uint8)
    heat = np.zeros((3, 4, 4), np.float32)
    heat[0, 1, 2] = 2.0
    heat[1] = -1.0
    told = Explanation("film.png", np.array([0.2, 0.7, 0.4]), heat, mask)
    return Reading(pathlib.Path("film.png"), film, 255 - film, 0.5, shape, told, "grad_cam", fit)


def network(**own):
    return Network("resnet18", LABELS, (), "32 px", **own)


# --- geometry, by hand


def test_the_whole_film_lies_in_its_room():
    # 80 x 60 pixels in a room of 400 x 400: five times as large, 400 x 300.
    part = view.part_of((60, 80), View(), 400, 400)
    assert part == drawing.Part(height=300, width=400, left=0, top=0, right=400, bottom=300)
    # In 200 x 100 the height decides: 1.666 times, 133 x 100.
    assert view.part_of((60, 80), View(), 200, 100) == drawing.Part(100, 133, 0, 0, 133, 100)


def test_a_zoomed_film_is_seen_in_part():
    # Twice as close it is 800 x 600, of which 400 x 400 are seen.
    seen = view.part_of((60, 80), View(zoom=2.0), 400, 400)
    assert seen == drawing.Part(600, 800, left=200, top=100, right=600, bottom=500)
    corner = view.part_of((60, 80), View(zoom=2.0, center=(0.0, 1.0)), 400, 400)
    assert (corner.left, corner.top, corner.right, corner.bottom) == (0, 200, 400, 600)


def test_zoom_holds_the_point_under_the_pointer():
    shape, room = (60, 80), (400, 400)
    before = View(zoom=2.0)
    # 100 right and 50 above the middle lies (0.5 + 100 / 800, 0.5 - 50 / 600) of the film.
    after = view.zoomed(before, shape, *room, 2.0, 100, -50)
    assert after.zoom == 4.0
    # At 1600 x 1200 the same 100 pixels are 1 / 16 of the width.
    assert after.center == pytest.approx((0.625 - 100 / 1600, 0.5 - 50 / 600 + 50 / 1200))
    part = view.part_of(shape, after, *room)
    assert (part.left + 200 + 100) / part.width == pytest.approx(0.625, abs=1 / 1600)
    back = view.zoomed(after, shape, *room, 0.5, 100, -50)
    assert back.zoom == 2.0 and back.center == pytest.approx(before.center)


def test_zoom_and_pan_end_at_the_borders():
    shape, room = (60, 80), (400, 400)
    assert view.zoomed(View(), shape, *room, 0.1) == View()  # never smaller than the room
    assert view.zoomed(View(), shape, *room, 1e9).zoom == view.CLOSEST
    # At zoom 1 there is nothing to pull.
    assert view.moved(View(), shape, *room, 50, 50) == View()
    near = View(zoom=2.0)
    assert view.moved(near, shape, *room, -80, 0).center == pytest.approx((0.6, 0.5))
    # The middle of the room is half a room from the border: 200 of 800, and 200 of 600.
    far = view.moved(near, shape, *room, 9999, -9999)
    assert far.center == pytest.approx((0.25, 1 - 200 / 600))
    # Where the film is lower than the room it stays in the middle: 80 x 20 at twice is 800 x 200.
    assert view.moved(near, (20, 80), *room, 0, 300).center == (0.5, 0.5)


def test_before_and_after_share_the_room_and_the_pointer():
    both = View(before_after=True)
    assert view.room(both, 412, 300) == (200, 300) and view.room(View(), 412, 300) == (412, 300)
    # Each is 200 x 150; their middles are 106 from the picture's.
    assert view.from_middle(both, (60, 80), 412, 300, 106, 7) == (0, 7)
    assert view.from_middle(both, (60, 80), 412, 300, -116, 7) == (-10, 7)
    assert view.from_middle(View(), (60, 80), 412, 300, 106, 7) == (106, 7)


def test_grays_follow_window_and_level():
    np.testing.assert_array_equal(view.grays(View()), np.arange(256))
    found = view.grays(View(level=100, window=50))  # from 75 to 125
    assert found[75] == 0 and found[125] == 255 and found[100] == 128  # 127.5, rounded up
    assert found[80] == 26  # 255 * 5 / 50 = 25.5
    assert (found[:76] == 0).all() and (found[125:] == 255).all()
    wide = view.grays(View(level=127.5, window=510))
    assert wide[0] == 64 and wide[255] == 191  # 63.75 and 191.25
    dragged = view.windowed(View(), -55, 10)
    assert (dragged.window, dragged.level) == (200, 137.5)
    assert view.windowed(View(), -9999, 9999) == View(window=1.0, level=255.0)
    assert view.reset(view.windowed(View(zoom=3.0, finding=1), 5, 5)) == View(finding=1)


# --- pictures


def test_a_zoomed_picture_is_the_part_of_the_large_one():
    """At twice the zoom one sees what a room of twice the size shows there."""
    read = reading(mask=np.tile(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None], (32, 1, 1)))
    for fit in ("stretch", "crop", "pad"):
        read = dataclasses.replace(read, fit=fit)
        for shown in (View(), View(finding=0, boxes=False), View(level=90, window=70)):
            large = np.asarray(view.render(read, shown, 800, 800)).astype(int)
            assert large.shape == (600, 800, 3)
            close = dataclasses.replace(shown, zoom=2.0, center=(0.4, 0.6))
            seen = np.asarray(view.render(read, close, 400, 400)).astype(int)
            np.testing.assert_allclose(seen, large[160:560, 120:520], atol=1)
        # A line has the thickness of the picture; where there is none both are the film.
        outlined = View(masks=True, zoom=2.0, center=(0.4, 0.6))
        seen = np.asarray(view.render(read, outlined, 400, 400)).astype(int)
        line = np.ptp(seen, axis=-1) > 0
        # The structure is the right half of the square, which goes on beyond the picture.
        edge = {"stretch": 400, "crop": 400, "pad": 400}[fit] - 120
        columns = np.unique(np.nonzero(line)[1])
        assert columns.min() >= edge - 20 and columns.max() <= edge + 20


def test_boxes_stay_on_their_place_and_their_border_outside():
    read = reading((80, 80))
    shown = View(finding=0, heat=False)
    # The peak is in row 1, column 2 of 4: in the upper right quarter.
    large = np.asarray(view.render(read, shown, 400, 400)).astype(int)
    close = dataclasses.replace(shown, zoom=2.0, center=(0.75, 0.25))
    seen = np.asarray(view.render(read, close, 200, 200)).astype(int)
    yellow = (255, 211, 77)
    rows, columns = np.nonzero((large == yellow).all(-1))
    near_rows, near_columns = np.nonzero((seen == yellow).all(-1))
    assert abs((columns.min() - 200) - near_columns.min()) <= 2
    assert abs(rows.max() - near_rows.max()) <= 2
    # Seen from inside of the box there is no line at the picture's border.
    middle = ((columns.min() + columns.max()) / 2 / 400, (rows.min() + rows.max()) / 2 / 400)
    inside = dataclasses.replace(shown, zoom=16.0, center=middle)
    assert not (np.asarray(view.render(read, inside, 200, 200)) == yellow).all(-1).any()


def test_other_colours_and_the_scale_beside_them():
    read = reading()
    one, other = (np.asarray(view.render(read, View(finding=0, colors=name), 80, 80))
                  for name in ("inferno", "viridis"))
    assert (one != other).any()
    bar = drawing.color_bar(256, 2, "viridis")
    assert bar.shape == (2, 256, 3)
    np.testing.assert_array_equal(bar[0], drawing._colors("viridis"))
    assert view.hot(read, View(finding=0)) and not view.hot(read, View(finding=1))
    assert not view.hot(read, View()) and not view.hot(read, View(finding=0, heat=False))


# --- words


def test_the_table_says_what_is_decided():
    points = np.array([0.2, 0.8, np.nan])
    found = looking.findings(reading(), network(thresholds=points, rule="the highest F1"))
    assert [f.label for f in found] == ["Pleural Thickening", "Edema", "Mass"]
    assert [f.decision for f in found] == ["negative", "", "positive"]  # what reaches it is
    assert [f.threshold for f in found] == [0.8, None, 0.2]
    one = looking.findings(reading(), network(task="multiclass"))
    assert [f.decision for f in one] == ["the answer", "", ""]
    assert {f.decision for f in looking.findings(reading(), network())} == {""}


def test_the_title_and_the_legend_name_what_is_shown():
    read, net = reading(), network(thresholds=np.array([0.1, 0.8, 0.5]), rule="the highest F1")
    assert view.title(read, View(finding=0), net) == "Mass   20.0%   positive"
    assert view.title(read, View(), net) == "film.png"
    assert "50.0% of pixels" in view.title(read, View(before_after=True), net)
    assert view.legend(read, View(finding=1)) == [("", "nothing on this film speaks for it")]
    assert view.legend(read, View(finding=0, threshold=0.3)) == [
        (drawing.PREDICTED, "heat reaches 30% of its maximum")]
    assert view.legend(read, View()) == []
    assert view.position(View(zoom=2.0, level=90)) == "zoom 2.0   window 255, level 90"
    assert view.position(View()) == ""
    assert "positive by the highest F1" in looking.how(net) and "Not calibrated" in looking.how(net)


def test_the_row_of_a_film_is_that_of_predict():
    net = network(thresholds=np.array([0.1, 0.8, np.nan]))
    row = looking.table_row("film.png", reading(), net)
    shape = looking.layout(net)
    assert shape.header() == ["file", "network", *LABELS, *(f"{k} decision" for k in LABELS),
                              "warnings", "error"]
    assert shape.text(row) == (
        "film.png,resnet18,0.200000,0.700000,0.400000,1,0,,,\r\n")


def test_the_picture_to_keep_says_what_it_is_for():
    kept = view.picture(reading(), View(finding=0), network())
    assert kept.width == 800 and kept.height > 600
    plain = view.picture(reading(), View(finding=0), network(purpose=" "))
    assert (np.asarray(kept) != np.asarray(plain)).any()  # a line of its caption
    assert Image.open(io.BytesIO(view.png(kept))).size == kept.size
