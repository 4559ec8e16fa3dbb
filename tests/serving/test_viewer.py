"""The window, driven by real clicks and keys on a screen of its own; and what lies under it.

The tests with the fixture `screen` need Xvfb and xdotool (Debian: `apt install xvfb xdotool`) and a
Python with tkinter; without them they are skipped.
"""

import dataclasses
import gc
import os
import pathlib
import queue
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageGrab

from cxrjax.errors import UserError
from cxrjax.explanation import drawing
from cxrjax.serving import view as views
from cxrjax.serving.view import View
from cxrjax.serving.viewer import main, reader
from cxrjax.serving.viewer.keys import KEYS
from cxrjax.serving.viewer.reader import Reader
from tests import small_run

LABELS = 14


@pytest.fixture(scope="module")
def run():
    return small_run.make(decoder=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three films and a text that calls itself one; the films are told apart by their size."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for i in range(3):
        film = rng.integers(40, 120, (60 + i, 80), dtype=np.uint8)
        film[20:40, 30 + i : 38 + i] = 250  # a bar that the removal takes out
        Image.fromarray(film).save(folder / f"film{i}.png")
    (folder / "zz_text.png").write_text("no film")
    return folder


def answer(reader, ticket, timeout=120):
    """The reader's answer to a request."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            found = reader.answers.get(timeout=1)
        except queue.Empty:
            continue
        if found.ticket == ticket:
            return found
    raise AssertionError(f"no answer to {ticket}")


# --- without a window


@pytest.fixture(scope="module")
def reading(run, films):
    reader = Reader(lambda: run)
    network = answer(reader, 0).network
    reader.open(1, films / "film0.png", "grad_cam")
    found = answer(reader, 1)
    assert not found.error
    yield network, found.reading
    reader.close()


def test_reader_tells_what_it_reads_with(reading):
    network, read = reading
    assert network.name == "create" and len(network.labels) == LABELS
    assert network.structures == ("lungs",) and "phantom" in network.about
    assert read.size == (60, 80) and read.film.shape == (60, 80)
    assert read.removed > 0.02 and read.cleaned[30, 33] < 130
    probabilities = read.explanation.probabilities
    assert sorted(read.order()) == list(range(LABELS))
    assert (np.diff(probabilities[read.order()]) <= 0).all()


def test_reader_answers_the_last_of_many_requests_and_names_what_fails(run, films):
    gate = threading.Event()

    def slow():
        gate.wait(60)
        return run

    reader = Reader(slow)
    for ticket in range(1, 6):
        reader.open(ticket, films / "film1.png", "grad_cam")
    reader.open(6, films / "zz_text.png", "grad_cam")
    gate.set()
    assert "not a PNG" in answer(reader, 6).error
    assert reader.answers.empty()
    reader.open(7, films / "gone.png", "grad_cam")
    assert "no such file" in answer(reader, 7).error
    reader.open(8, films / "film1.png", "no_method")
    assert "unknown method" in answer(reader, 8).error
    reader.close()


def test_reader_says_that_there_is_no_checkpoint(tmp_path):
    assert "no checkpoint" in answer(Reader(reader.loader(str(tmp_path), "best")), 0).error


def test_reader_takes_another_method_from_the_same_film(run, films):
    own = Reader(lambda: run)
    own.open(1, films / "film0.png", "grad_cam")
    first = answer(own, 1).reading
    own.open(2, films / "film0.png", "occlusion")
    second = answer(own, 2).reading
    own.close()
    assert second.method == "occlusion" and second.film is first.film
    np.testing.assert_allclose(second.explanation.probabilities, first.explanation.probabilities,
                               atol=1e-6)
    assert (second.explanation.heat.shape != first.explanation.heat.shape
            or (second.explanation.heat != first.explanation.heat).any())


def test_reader_says_what_nobody_expected():
    def broken():
        raise RuntimeError("the disk is on fire")

    assert answer(Reader(broken), 0).error == "RuntimeError: the disk is on fire"


def test_render_lays_over_the_film_what_the_view_says(reading):
    _, read = reading
    plain = np.asarray(views.render(read, View(), 400, 400)).astype(int)
    assert plain.shape == (300, 400, 3)
    np.testing.assert_array_equal(plain[..., 0], plain[..., 2])

    def changed(**view):
        shown = np.asarray(views.render(read, View(finding=k, **view), 400, 400))
        return np.abs(shown.astype(int) - plain).sum((0, 1, 2))

    k = next(k for k in range(LABELS) if read.explanation.heat[k].max() > 0)
    assert changed(heat=False, boxes=False) == 0
    faint = changed(opacity=0.2, boxes=False)
    assert 0 < faint < changed(opacity=0.8, boxes=False)
    assert changed(boxes=False, threshold=0.9) < changed(boxes=False, threshold=0.2)
    assert changed(heat=False) > 0 and changed(heat=False, boxes=False, masks=True) > 0
    both = views.render(read, View(before_after=True), 412, 300)
    assert both.size == (412, 150)
    before, after = np.asarray(both)[:, :200, 0], np.asarray(both)[:, 212:, 0]
    assert before.max() > 200 > after.max()


def test_no_workdir_and_no_screen_are_clear_lines(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--workdir"):
        main.main(None)
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    monkeypatch.setenv("DISPLAY", ":94713")
    with pytest.raises(UserError, match="no screen"):
        main.main(str(tmp_path))


def test_python_without_tkinter_is_a_clear_line(monkeypatch, tmp_path):
    import builtins

    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "tkinter":
            raise ImportError("No module named 'tkinter'", name="tkinter")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="python3-tk"):
        main.main(str(tmp_path))


# --- the window


@pytest.fixture(scope="module")
def screen():
    """A screen of 1280x800 that only the tests see; its name, as DISPLAY wants it."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter: the window is not tested")
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: the window is not tested")
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=[write_end], stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        number = pipe.readline().strip()
    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = f":{number}"
    yield f":{number}"
    os.environ.pop("DISPLAY")
    if before is not None:
        os.environ["DISPLAY"] = before
    server.terminate()
    server.wait(10)


class Driver:
    """Moves the mouse and presses the keys of a screen on which a window runs."""

    def __init__(self, window):
        self.window, self.root = window, window.root

    def do(self, *words):
        subprocess.run(["xdotool", *map(str, words)], check=True, timeout=60, capture_output=True)

    def until(self, true, what, timeout=90):
        """Lets the window run until something is so."""
        end = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < end, f"waited for {what}; it says {self.window.message!r}"
            self.root.update()
            time.sleep(0.005)
        for _ in range(3):
            self.root.update()

    def settle(self):
        self.until(lambda: self.window.canvas.waiting is None, "the drawing")

    def point(self, widget, x=None, y=None):
        self.root.update()
        x = widget.winfo_width() // 2 if x is None else x
        y = widget.winfo_height() // 2 if y is None else y
        return widget.winfo_rootx() + x, widget.winfo_rooty() + y

    def click(self, widget, x=None, y=None):
        self.do("mousemove", *self.point(widget, x, y), "click", 1)

    def key(self, name):
        self.do("mousemove", *self.point(self.window.canvas), "key", name)

    def dialog(self, title, text, start, returns=1):
        """Does `start`, which opens a dialog that waits, and answers it by keys."""

        def type_it():
            try:
                self.do("search", "--sync", "--onlyvisible", "--name", title,
                        "mousemove", "--window", "%1", 60, 20)
                time.sleep(0.3)
                self.do("key", "ctrl+slash", "type", "--delay", "2", text)
                self.do("key", *["Return"] * returns)
                time.sleep(1)
            finally:
                self.do("key", "Escape")  # a dialog that still waits would wait for ever

        typing = threading.Thread(target=type_it)
        typing.start()
        start()
        self.until(lambda: not typing.is_alive(), f"the dialog {title!r}")

    def film(self):
        """The pixels of the film's place, as they are on the screen."""
        self.settle()
        x, y = self.point(self.window.canvas, 0, 0)
        canvas = self.window.canvas
        box = (x, y, x + canvas.winfo_width(), y + canvas.winfo_height())
        shot = ImageGrab.grab(bbox=box, xdisplay=os.environ["DISPLAY"])
        return np.asarray(shot.convert("RGB")).astype(int)


@pytest.fixture
def drive(screen):
    """(reader, images) -> the Driver of a new window, which is closed at the end.

    Tcl aborts the process if another thread than its own deletes its interpreter. The program has
    one for its whole life; the tests make several, so they collect garbage in this thread only.
    """
    import tkinter

    from cxrjax.serving.viewer.window import Window

    drivers = []
    gc.disable()

    def open_window(reader, images=None):
        drivers.append(Driver(Window(tkinter.Tk(), reader, images)))
        return drivers[-1]

    yield open_window
    for driver in drivers:
        driver.window.close()
        vars(driver).clear()
    gc.collect()
    gc.enable()


@pytest.fixture
def driver(drive, run):
    driver = drive(Reader(lambda: run))
    driver.until(lambda: driver.window.network is not None, "the network")
    return driver


def test_a_person_opens_looks_saves_and_meets_a_broken_film(driver, films, tmp_path):
    window = driver.window
    assert window.message == "ready"

    # Open a film by the button and the dialog.
    driver.dialog("Open a film", str(films / "film1.png"),
                  lambda: driver.click(window.open_button))
    driver.until(lambda: window.reading is not None, "the film")
    assert window.reading.path == films / "film1.png" and not window.failed
    first = driver.film()
    assert window.view.finding == window.reading.order()[0]

    # Choose another finding by a click on its bar: the row, the title and the film change.
    wanted = next(k for k in window.reading.order()[1:]
                  if window.reading.explanation.heat[k].max() > 0)
    driver.click(window.findings, 40, window.findings.y_of(wanted))
    driver.until(lambda: window.view.finding == wanted, "the finding")
    chosen = driver.film()
    assert np.abs(chosen - first).sum() > 0

    # Drag a slider: more opacity, more colour on the film.
    start, end = window.opacity.span()
    x, y = driver.point(window.opacity, (start + end) // 2)
    driver.do("mousemove", x, y, "mousedown", 1, "mousemove", x + (end - start) // 4, y,
              "mousemove", x + (end - start) * 2 // 5, y, "mouseup", 1)
    driver.until(lambda: window.view.opacity > 0.85, "the slider")
    color = np.ptp(driver.film(), axis=-1).mean()
    assert color > 1.2 * np.ptp(chosen, axis=-1).mean()
    driver.click(window.threshold, window.threshold.span()[1])
    driver.until(lambda: window.view.threshold == 1.0, "the other slider")

    # Save the picture.
    target = tmp_path / "saved.png"
    driver.dialog("Save the picture", str(target), lambda: driver.key("ctrl+s"))
    driver.until(lambda: window.message.startswith("saved"), "the saving")
    with Image.open(target) as saved:
        assert np.ptp(np.asarray(saved.convert("RGB")).astype(int), axis=-1).max() > 60

    # What cannot be written is a message, and the film stays.
    for path in (tmp_path / "none" / "a.png", tmp_path / "a.words"):
        window.save(path)
        assert "cannot be saved" in window.message and not window.failed

    # A broken film is a message, and the window goes on.
    driver.dialog("Open a film", str(films / "zz_text.png"), lambda: driver.key("ctrl+o"))
    driver.until(lambda: window.failed, "the message")
    assert "not a PNG" in window.message and window.reading is None
    assert (np.abs(driver.film() - chosen).sum(-1) > 0).mean() > 0.2
    driver.dialog("Open a film", str(films / "film0.png"), lambda: driver.key("ctrl+o"))
    driver.until(lambda: window.reading is not None, "the next film")
    assert window.view.finding == wanted


def test_a_folder_is_stepped_through_by_keys(driver, films):
    window = driver.window
    # Tk's dialog takes the first Return for the way there, the second for the choice.
    driver.dialog("Open a folder", str(films), lambda: driver.click(window.folder_button), 2)
    driver.until(lambda: window.reading is not None, "the first film")
    assert window.position.cget("text") == "1 / 4"
    driver.key("Right")
    driver.until(lambda: window.reading and window.reading.size[0] == 61, "the second film")
    driver.click(window.forth_button)
    driver.until(lambda: window.reading and window.reading.size[0] == 62, "the third film")
    driver.key("Right")
    driver.until(lambda: window.failed, "the broken film")
    driver.key("Right")  # there is none
    driver.key("Left")
    driver.until(lambda: window.reading and window.reading.size[0] == 62, "the film before")

    top = window.view.finding
    driver.key("Down")
    driver.until(lambda: window.view.finding == window.reading.order()[1], "the next finding")
    driver.key("Up")
    driver.until(lambda: window.view.finding == top, "the finding before")
    shown = driver.film()
    driver.key("h")
    driver.until(lambda: not window.view.heat, "the heat to go")
    assert np.abs(driver.film() - shown).sum() > 0
    driver.key("b")
    driver.until(lambda: window.view.before_after, "before and after")
    driver.click(window.toggles["before_after"])
    driver.until(lambda: not window.view.before_after, "the film again")
    plain = driver.film()
    driver.click(window.toggles["masks"])
    driver.until(lambda: window.view.masks, "the lungs")
    assert np.abs(driver.film() - plain).sum() > 0
    driver.click(window.methods.buttons["cam"])
    driver.until(lambda: window.reading.method == "cam", "another method")


def test_a_person_zooms_pulls_and_changes_the_grays(driver, films):
    window, canvas = driver.window, driver.window.canvas
    window.open(str(films / "film0.png"))
    driver.until(lambda: window.reading is not None, "the film")
    whole = driver.film()

    # The wheel: what is under the pointer stays there.
    x, y = (round(v) for v in canvas.middle())
    driver.do("mousemove", *driver.point(canvas, x + 100, y + 30), "click", 4, "click", 4)
    driver.until(lambda: window.view.zoom == pytest.approx(1.25**2), "the wheel")
    assert window.view.center[0] > 0.5
    assert np.abs(driver.film() - whole).sum() > 0

    # A drag with the right button pulls the film, with the left one it changes the grays.
    before = window.view
    left, top = driver.point(canvas, x, y)
    driver.do("mousemove", left, top, "mousedown", 3, "mousemove", left + 20, top + 5,
              "mousemove", left + 60, top + 10, "mouseup", 3)
    driver.until(lambda: window.view.center[0] < before.center[0], "the pulling")
    assert (window.view.level, window.view.window) == (before.level, before.window)
    driver.do("mousemove", left, top, "mousedown", 1, "mousemove", left - 20, top - 10,
              "mousemove", left - 100, top - 30, "mouseup", 1)
    width, level = 255 - 100 / window.look.scale, 127.5 - 30 / window.look.scale
    driver.until(lambda: window.view.window == pytest.approx(width), "the grays")
    assert window.view.level == pytest.approx(level)
    driver.do("keydown", "shift", "mousedown", 1, "mousemove", left + 9, top, "mouseup", 1,
              "keyup", "shift")
    assert window.view.window == pytest.approx(width)

    # Keys do it too, and one brings all back; so does a double click.
    driver.key("plus")
    driver.until(lambda: window.view.zoom == pytest.approx(1.25**3), "the key")
    at = window.view.center
    driver.key("shift+Right")
    driver.until(lambda: window.view.center[0] > at[0], "the pulling by a key")
    driver.key("bracketright")
    driver.until(lambda: window.view.window == pytest.approx(width + 8), "the window")
    driver.key("0")
    driver.until(lambda: (window.view.zoom, window.view.window) == (1.0, 255.0), "the whole film")
    np.testing.assert_array_equal(driver.film(), whole)
    driver.do("mousemove", *driver.point(canvas, x, y), "click", 4, "click", "--repeat", 2, 1)
    driver.until(lambda: window.view.zoom == 1.0, "the double click")
    driver.do("mousemove", *driver.point(window.position))


def test_every_key_does_what_the_help_says(driver, films):
    window = driver.window
    known = {event for key in KEYS for event in key.does}
    assert all(window.root.bind(event) for event in known)
    driver.key("question")
    driver.until(lambda: window.canvas.helping, "the help")
    driver.settle()
    shown = {window.canvas.itemcget(i, "text") for i in window.canvas.find_all()
             if window.canvas.type(i) == "text"}
    assert {key.shown for key in KEYS} <= shown
    box = window.canvas.bbox("all")
    assert box[1] >= 0 and box[3] <= window.canvas.winfo_height()
    driver.key("Escape")
    driver.until(lambda: not window.canvas.helping, "the film again")

    window.open(str(films))
    driver.until(lambda: window.reading is not None, "the film")
    driver.key("End")
    driver.until(lambda: window.failed, "the last one, which is broken")
    driver.key("Home")
    driver.until(lambda: window.reading is not None and window.at == 0, "the first one")
    for key, name, value in (("x", "boxes", False), ("l", "masks", True), ("o", "opacity", 0.6),
                             ("T", "threshold", 0.4), ("c", "colors", "viridis")):
        driver.key(key)
        driver.until(lambda n=name, v=value: getattr(window.view, n) == pytest.approx(v), name)
    driver.key("f")
    driver.until(lambda: window.view.finding is None, "the film alone")
    driver.key("m")
    driver.until(lambda: window.reading.method == "grad_cam_plus_plus", "the next method")


def test_the_window_shows_the_picture_of_the_view(driver, films):
    """The pixels on the screen are those that `render` gives, which the page shows too."""
    window, canvas = driver.window, driver.window.canvas
    window.open(str(films / "film1.png"))
    driver.until(lambda: window.reading is not None, "the film")
    window.change(zoom=1.7, center=(0.45, 0.5), window=120, level=100)
    shown = driver.film()
    picture = np.asarray(views.render(window.reading, window.view, *canvas.room())).astype(int)
    x, y = canvas.middle()
    top, left = int(y - picture.shape[0] / 2), int(x - picture.shape[1] / 2)
    cut = min(np.abs(shown[t : t + picture.shape[0], e : e + picture.shape[1]] - picture).max()
              for t in (top, top + 1) for e in (left, left + 1))
    assert cut == 0


def test_decisions_stand_beside_the_findings(drive, run, films, tmp_path, monkeypatch):
    from cxrjax.evaluation.answers import Answers

    labels = run.meta["labels"]
    cuts = {"create": {k: (0.0 if i % 2 else 1.0, -9.0 if i % 2 else 9.0)
                       for i, k in enumerate(labels)}}
    told = Answers(tuple(labels), "multilabel", rule="f1", cuts=cuts)
    monkeypatch.setattr("cxrjax.serving.viewer.reader.read_answers", lambda *_: told)
    driver = drive(Reader(lambda: run), str(films / "film0.png"))
    window = driver.window
    driver.until(lambda: window.reading is not None, "the film")
    driver.settle()
    first = window.reading.order()[0]
    word = "positive" if first % 2 else "negative"
    texts = [window.canvas.itemcget(i, "text") for i in window.canvas.find_all()
             if window.canvas.type(i) == "text"]
    assert any(t.endswith(word) for t in texts)
    circles = [window.findings.itemcget(i, "fill") for i in window.findings.find_all()
               if window.findings.type(i) == "oval"]
    assert len(circles) == LABELS and sum(map(bool, circles)) == LABELS // 2
    assert "highest F1 on validation" in window.about.cget("text")


def test_the_window_lives_while_the_reader_works(drive, run, films):
    gate = threading.Event()

    def slow():
        gate.wait(60)
        return run

    driver = drive(Reader(slow), str(films / "film0.png"))
    window = driver.window
    driver.until(lambda: window.root.winfo_viewable(), "the window")
    start, end = window.opacity.span()
    driver.click(window.opacity, start)
    driver.until(lambda: window.view.opacity == 0.0, "a slider before the network is there", 10)
    assert window.reading is None and "restoring" in window.message
    gate.set()
    driver.until(lambda: window.reading is not None, "the film of the command line")


def test_a_missing_checkpoint_is_a_message(drive, films, tmp_path):
    driver = drive(Reader(reader.loader(str(tmp_path), "best")), str(films))
    window = driver.window
    driver.until(lambda: window.failed, "the message")
    assert "no checkpoint in" in window.message
    window.open(str(films))
    driver.settle()
    assert "no checkpoint in" in window.message and window.failed
    window.toggle("masks")
    assert "no decoder" in window.message


def test_every_label_can_be_read(driver, films):
    """Nothing is cut off at 1280x800, and a dense or large screen gets larger letters."""
    window, root = driver.window, driver.root
    driver.until(lambda: root.winfo_width() == 1280, "the size")
    for widget in (window.save_button, *window.toggles.values(), *window.methods.buttons.values()):
        assert widget.winfo_width() >= widget.winfo_reqwidth()
        assert widget.winfo_rootx() + widget.winfo_width() <= 1280
        assert widget.winfo_rooty() + widget.winfo_height() <= 800
    assert window.findings.winfo_height() >= LABELS * window.look.px(window.findings.ROW) - 2
    last = window.findings.bbox("all")
    assert last[2] <= window.findings.winfo_width()
    longest = max(window.network.labels, key=len)
    assert window.look.px(14) + _width(root, window.look.font(13, True), longest) <= window.look.px(
        166)
    assert abs(window.look.font(13)[1]) >= 13
    assert dataclasses.replace(window.look, scale=2.0).font(13)[1] == -26


def _width(root, font, text):
    from tkinter import font as tkfont

    return tkfont.Font(root, font=font).measure(text)


# --- pictures


def test_square_of_the_network_on_the_film():
    assert drawing.square(40, 80, "stretch") == (0, 0, 80, 40)
    assert drawing.square(40, 80, "crop") == (20, 0, 60, 40)
    assert drawing.square(40, 80, "pad") == (0, -20, 80, 60)
    box = np.array([[0.25, 0.25, 0.75, 1.0]])
    assert drawing.boxes_on_film(box, 40, 80, "crop").tolist() == [[30, 10, 50, 40]]
    assert drawing.boxes_on_film(box, 40, 80, "pad").tolist() == [[20, 0, 60, 40]]


def test_heat_lies_where_the_network_looked():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 2.0  # upper right
    heat[3, 0] = -5.0  # speaks against
    on_film = drawing.heat_on_film(heat, 40, 80)
    assert on_film.shape == (40, 80) and on_film.min() == 0
    assert np.unravel_index(on_film.argmax(), on_film.shape) in [(r, c) for r in range(6)
                                                                 for c in range(69, 80)]
    cropped = drawing.heat_on_film(heat, 40, 80, "crop")
    assert cropped[:, 60:].max() == 0 and cropped[2, 57] == pytest.approx(1.0)
    padded = drawing.heat_on_film(heat, 40, 80, "pad")
    assert padded.max() < 0.5  # the hottest place is beyond the film


def test_cold_places_keep_their_gray_and_hot_ones_get_the_opacity():
    film = np.full((2, 2), 100, np.uint8)
    heat = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    shown = drawing.blend(film, heat, opacity=1.0, threshold=0.5)
    assert shown[0, 0].tolist() == [100, 100, 100]
    full = drawing._colors()[255]
    assert shown[1, 1].tolist() == full.tolist()
    half = drawing.blend(film, heat, opacity=0.5, threshold=0.5)[1, 1]
    np.testing.assert_allclose(half, (100 + full.astype(float)) / 2, atol=1)
    quarter = drawing._colors()[64].astype(float)
    np.testing.assert_allclose(shown[0, 1], 100 + 0.25 * (quarter - 100), atol=1)


def test_a_long_caption_is_cut_to_the_picture():
    image = Image.new("RGB", (120, 40))
    out = drawing.captioned(image, "A very long title that cannot fit into it", ["and a line"])
    assert out.width == 120 and out.height > 60
    assert pathlib.Path(drawing.font(12).path).name == "DejaVuSans.ttf"
