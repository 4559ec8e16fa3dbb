"""The film's place in the window: the picture, its title and legend, the mouse on it, the help."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable

from PIL import Image, ImageTk

from cxrjax.explanation import drawing
from cxrjax.serving import view as views
from cxrjax.serving.looking import Network, Reading
from cxrjax.serving.view import View
from cxrjax.serving.viewer.keys import KEYS, MOUSE
from cxrjax.serving.viewer.widgets import BACKGROUND, BAD, FAINT, INK, PANEL, Look

CLOSER = 1.25  # by a notch of the wheel


class Film(tk.Canvas):
    """Draws what it is given, soon; many changes in a row (a drag) are drawn once.

    Attributes:
      reading, view, network: what is drawn; the window sets them and calls `redraw`.
      message, title: drawn in the film's place where `reading` is None or `failed`.
      helping: whether the keys are drawn instead.
    """

    def __init__(self, parent: tk.Misc, look: Look, command: Callable[[View], None]):
        super().__init__(parent, bg=BACKGROUND, highlightthickness=0, cursor="crosshair")
        self._look, self._command = look, command
        self.reading: Reading | None = None
        self.network: Network | None = None
        self.view = View()
        self.message, self.title, self.failed, self.helping = "", "", False, False
        self.waiting: str | None = None
        self._photo: ImageTk.PhotoImage | None = None
        self._bar: ImageTk.PhotoImage | None = None
        self._drag: tuple[int, int, View] | None = None
        self.bind("<Configure>", lambda _: self.redraw())
        for button, pulled in (("1", False), ("2", True), ("3", True)):
            self.bind(f"<ButtonPress-{button}>", self._press)
            self.bind(f"<B{button}-Motion>", lambda e, p=pulled: self._move(e, p))
        self.bind("<Shift-B1-Motion>", lambda e: self._move(e, True))
        self.bind("<Double-Button-1>", self._reset)
        for event, factor in (("<Button-4>", CLOSER), ("<Button-5>", 1 / CLOSER)):
            self.bind(event, lambda e, f=factor: self.zoom(f, *self._from_middle(e)))
        self.bind("<MouseWheel>", lambda e: self.zoom(
            CLOSER if e.delta > 0 else 1 / CLOSER, *self._from_middle(e)))

    # --- what the user does with the film

    def zoom(self, factor: int | float, x: int | float = 0, y: int | float = 0) -> None:
        """Closer; (x, y), from the middle of the picture, stays where it is."""
        if self.reading is not None:
            x, y = views.from_middle(self.view, self._shape, *self.room(), x, y)
            self.change(views.zoomed(self.view, self._shape, *self._room_of_one(), factor, x, y))

    def pan(self, dx: int | float, dy: int | float) -> None:
        """Pulls the film."""
        if self.reading is not None:
            self.change(views.moved(self.view, self._shape, *self._room_of_one(), dx, dy))

    def change(self, view: View) -> None:
        """Another view; the window is told."""
        self.view = view
        self._command(view)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.reading.film.shape

    def room(self) -> tuple[int, int]:
        """(width, height) of the picture's room, in pixels."""
        margin, rest = 2 * self._look.px(18), self._look.px(46) + self._look.px(34)
        return max(64, self.winfo_width() - margin), max(64, self.winfo_height() - rest)

    def _room_of_one(self) -> tuple[int, int]:
        return views.room(self.view, *self.room())

    def middle(self) -> tuple[float, float]:
        """Where the middle of the picture lies on this canvas."""
        head, foot = self._look.px(46), self._look.px(34)
        return self.winfo_width() / 2, head + (self.winfo_height() - head - foot) / 2

    def _from_middle(self, event: tk.Event) -> tuple[float, float]:
        x, y = self.middle()
        return event.x - x, event.y - y

    def _press(self, event: tk.Event) -> None:
        self._drag = (event.x, event.y, self.view)
        self.focus_set()

    def _move(self, event: tk.Event, pulled: bool) -> None:
        if self._drag is None or self.reading is None or self.helping:
            return
        x, y, before = self._drag
        dx, dy = event.x - x, event.y - y
        if pulled:
            room = views.room(before, *self.room())
            self.change(views.moved(before, self._shape, *room, dx, dy))
        else:
            self.change(views.windowed(before, dx / self._look.scale, dy / self._look.scale))

    def _reset(self, _: tk.Event) -> None:
        self._drag = None
        self.change(views.reset(self.view))

    # --- drawing

    def redraw(self) -> None:
        """Draws soon."""
        if self.waiting is None:
            self.waiting = self.after_idle(self._draw)

    def _draw(self) -> None:
        self.waiting = None
        self.delete("all")
        if self.helping:
            self._draw_help()
            return
        if self.failed or self.reading is None:
            self._draw_message()
            return
        px, margin, high = self._look.px, self._look.px(18), self.winfo_height()
        image = views.render(self.reading, self.view, *self.room())
        self._photo = ImageTk.PhotoImage(image, master=self)
        self.create_image(*self.middle(), image=self._photo)
        text = views.title(self.reading, self.view, self.network)
        self.create_text(margin, px(46) / 2, anchor="w", text=text, fill=INK,
                         font=self._look.font(18, True))
        self.create_text(self.winfo_width() - margin, px(46) / 2, anchor="e", fill=FAINT,
                         text=views.position(self.view), font=self._look.font(12))
        self._draw_legend(margin, high - px(34) / 2)

    def _draw_message(self) -> None:
        wide, middle = self.winfo_width(), self.winfo_height() / 2
        if self.title:
            self.create_text(wide / 2, middle - self._look.px(30), text=self.title, fill=BAD,
                             font=self._look.font(18, True), anchor="s")
        self.create_text(
            wide / 2, middle, text=self.message, fill=INK if self.failed else FAINT,
            justify="center", width=max(100, wide - self._look.px(120)), font=self._look.font(15),
        )

    def _draw_legend(self, x: int, y: int | float) -> None:
        px, face = self._look.px, self._look.font(12)
        for color, text in views.legend(self.reading, self.view):
            if color:
                self.create_rectangle(x, y - px(6), x + px(16), y + px(6), outline=color,
                                      width=px(2))
                x += px(24)
            item = self.create_text(x, y, anchor="w", text=text, fill=FAINT, font=face)
            x = self.bbox(item)[2] + px(20)
        if views.hot(self.reading, self.view):
            right = self.winfo_width() - px(18)
            words = self.create_text(right, y, anchor="e", text="most", fill=FAINT, font=face)
            right = self.bbox(words)[0] - px(6)
            bar = drawing.color_bar(px(120), px(10), self.view.colors)
            self._bar = ImageTk.PhotoImage(Image.fromarray(bar), master=self)
            self.create_image(right, y, anchor="e", image=self._bar)
            self.create_text(right - px(126), y, anchor="e", text="no heat", fill=FAINT, font=face)

    def _draw_help(self) -> None:
        px, lines = self._look.px, [(k.shown, k.words) for k in KEYS] + list(MOUSE)
        row = min(px(24), (self.winfo_height() - px(30)) / (len(lines) + 1))
        x, y = self.winfo_width() / 2, (self.winfo_height() - row * len(lines)) / 2
        self.create_rectangle(x - px(330), y - px(16), x + px(330), y + row * len(lines) + px(10),
                              fill=PANEL, width=0)
        for i, (keys, words) in enumerate(lines):
            at = y + row * i + row / 2
            self.create_text(x - px(60), at, anchor="e", text=keys, fill=INK,
                             font=self._look.font(13, True))
            self.create_text(x - px(36), at, anchor="w", text=words, fill=FAINT,
                             font=self._look.font(13))
