"""The window's own widgets: flat, dark, drawn on canvases so that they look alike on any screen.

All sizes are in pixels of a screen of ordinary density and are multiplied by `Look.scale`.
"""

from __future__ import annotations

import dataclasses
import tkinter as tk
from collections.abc import Callable, Sequence
from tkinter import font as tkfont

import numpy as np

from cxrjax.serving.looking import POSITIVE, Finding

BACKGROUND, PANEL, RAISED, LINE = "#0e1216", "#161b21", "#222a32", "#2c353e"
INK, FAINT, ACCENT, CHOSEN, BAD = "#e9edf0", "#8d9aa6", "#4aa8d8", "#ffb347", "#ff7b72"
GOOD_FONTS = ("Inter", "SF Pro Text", "Segoe UI", "Helvetica Neue", "Noto Sans", "DejaVu Sans")


@dataclasses.dataclass(frozen=True)
class Look:
    """Scale and font of a screen."""

    scale: int | float
    family: str

    def px(self, size: int | float) -> int:
        """Pixels of this screen."""
        return max(1, round(size * self.scale))

    def font(self, size: int | float = 13, bold: bool = False) -> tuple[str, int, str]:
        """A font whose letters are `size` pixels high (Tk: negative sizes are pixels)."""
        return self.family, -self.px(size), "bold" if bold else "normal"


def look_of(root: tk.Tk) -> Look:
    """Chooses scale and font for the screen that `root` is on.

    The scale follows the dots per inch that the system reports, and the height of the screen where
    it reports the usual 96 for a screen that has far more.
    """
    by_density = root.winfo_fpixels("1i") / 96
    by_height = root.winfo_screenheight() / 1080
    scale = min(4.0, max(1.0, by_density, by_height))
    there = set(tkfont.families(root))
    family = next((f for f in GOOD_FONTS if f in there), tkfont.nametofont("TkDefaultFont", root)
                  .actual("family"))
    # The file dialogs use Tk's named fonts.
    for name in ("TkDefaultFont", "TkTextFont", "TkMenuFont", "TkHeadingFont", "TkCaptionFont"):
        tkfont.nametofont(name, root).configure(family=family, size=-round(13 * scale))
    return Look(scale, family)


class Button(tk.Label):
    """A flat button; `on` keeps it lit. Space and Return press it when it has the focus."""

    def __init__(self, parent: tk.Misc, look: Look, text: str, command: Callable[[], None]):
        super().__init__(
            parent, text=text, font=look.font(13), bg=RAISED, fg=INK, padx=look.px(12),
            pady=look.px(6), cursor="hand2", takefocus=True, highlightthickness=1,
            highlightbackground=PANEL, highlightcolor=ACCENT,
        )
        self._command, self._on, self._enabled = command, False, True
        self.bind("<ButtonRelease-1>", self._press)
        self.bind("<Key-space>", self._press)
        self.bind("<Key-Return>", self._press)
        self.bind("<Enter>", lambda _: self._paint(hover=True))
        self.bind("<Leave>", lambda _: self._paint())

    def _press(self, _: object) -> None:
        if self._enabled:
            self._command()

    def _paint(self, hover: bool = False) -> None:
        if not self._enabled:
            self.configure(bg=PANEL, fg=LINE)
        elif self._on:
            self.configure(bg=ACCENT, fg=BACKGROUND)
        else:
            self.configure(bg=LINE if hover else RAISED, fg=INK)

    def set(self, on: bool) -> None:
        """Lit or not."""
        self._on = on
        self._paint()

    def enable(self, enabled: bool) -> None:
        """Whether it can be pressed."""
        self._enabled = enabled
        self._paint()


class Choice(tk.Frame):
    """Buttons side by side of which one is lit."""

    def __init__(
        self, parent: tk.Misc, look: Look, options: Sequence[tuple[str, str]],
        command: Callable[[str], None],
    ):
        super().__init__(parent, bg=PANEL)
        self.buttons: dict[str, Button] = {}
        for column, (value, text) in enumerate(options):
            button = Button(self, look, text, lambda v=value: self._choose(v))
            button.configure(padx=look.px(6))
            button.grid(row=0, column=column, sticky="ew", padx=(0 if column == 0 else 1, 0))
            self.columnconfigure(column, weight=1)
            self.buttons[value] = button
        self._command = command
        self.set(options[0][0])

    def _choose(self, value: str) -> None:
        self.set(value)
        self._command(value)

    def set(self, value: str) -> None:
        """Lights the button of `value`."""
        for name, button in self.buttons.items():
            button.set(name == value)


class BusyLine(tk.Frame):
    """A thin line on which a light runs to and fro while something is computed."""

    def __init__(self, parent: tk.Misc, look: Look):
        super().__init__(parent, bg=PANEL, height=look.px(3))
        self._light = tk.Frame(self, bg=ACCENT)
        self._at, self._running = 0.0, False

    def set(self, busy: bool) -> None:
        """Runs or rests."""
        if busy and not self._running:
            self._running = True
            self._move()
        self._running = busy
        if not busy:
            self._light.place_forget()

    def _move(self) -> None:
        if self._running:
            self._at = (self._at + 0.02) % 2
            self._light.place(relx=0.85 * min(self._at, 2 - self._at), relwidth=0.15, relheight=1)
            self.after(30, self._move)


class Slider(tk.Canvas):
    """A name, a line with a knob, a percentage; dragged, clicked, or moved by the wheel."""

    def __init__(
        self, parent: tk.Misc, look: Look, text: str, value: int | float,
        command: Callable[[float], None], low: int | float = 0.0, high: int | float = 1.0,
    ):
        super().__init__(parent, height=look.px(34), bg=PANEL, highlightthickness=0)
        self._look, self._text, self.value = look, text, value
        self._command, self._low, self._high = command, low, high
        self.bind("<Configure>", lambda _: self._draw())
        self.bind("<Button-1>", lambda e: self._to(e.x))
        self.bind("<B1-Motion>", lambda e: self._to(e.x))
        for event, step in (("<Button-4>", 0.02), ("<Button-5>", -0.02)):
            self.bind(event, lambda _, s=step: self.set(self.value + s))
        self.bind("<MouseWheel>", lambda e: self.set(self.value + 0.02 * np.sign(e.delta)))

    def span(self) -> tuple[int, int]:
        """Where the line begins and ends, in pixels of the widget."""
        return self._look.px(92), self.winfo_width() - self._look.px(54)

    def _to(self, x: int) -> None:
        start, end = self.span()
        part = (x - start) / max(1, end - start)
        self.set(self._low + part * (self._high - self._low))

    def set(self, value: int | float) -> None:
        """Moves the knob, as far as the line goes."""
        self.value = float(min(self._high, max(self._low, value)))
        self._draw()
        self._command(self.value)

    def _draw(self) -> None:
        self.delete("all")
        px, (start, end) = self._look.px, self.span()
        middle = px(34) / 2
        at = start + (self.value - self._low) / (self._high - self._low) * (end - start)
        self.create_text(0, middle, anchor="w", text=self._text, fill=INK,
                         font=self._look.font(13))
        self.create_line(start, middle, end, middle, fill=LINE, width=px(4), capstyle="round")
        self.create_line(start, middle, at, middle, fill=ACCENT, width=px(4), capstyle="round")
        r = px(7)
        self.create_oval(at - r, middle - r, at + r, middle + r, fill=INK, outline=PANEL)
        self.create_text(self.winfo_width() - px(2), middle, anchor="e", fill=FAINT,
                         text=f"{self.value:.0%}", font=self._look.font(13))


class Findings(tk.Canvas):
    """The findings and their probabilities as bars, the most probable on top; one can be chosen.

    A tick on a bar is the operating point; a full circle at its end is what is called positive.
    """

    ROW = 29

    def __init__(
        self, parent: tk.Misc, look: Look, command: Callable[[int | None], None],
        names: Sequence[str] = (),
    ):
        super().__init__(parent, bg=PANEL, highlightthickness=0, cursor="hand2", takefocus=False)
        self._look, self._command = look, command
        self.names, self.order, self.chosen = tuple(names), list(range(len(names))), None
        self._found: dict[int, Finding] = {}
        self._under: int | None = None
        self.bind("<Configure>", lambda _: self._draw())
        self.bind("<Button-1>", self._click)
        self.bind("<Motion>", lambda e: self._hover(self._row(e.y)))
        self.bind("<Leave>", lambda _: self._hover(None))
        self.bind("<MouseWheel>", lambda e: self._scroll(-int(np.sign(e.delta))))
        self.bind("<Button-4>", lambda _: self._scroll(-1))
        self.bind("<Button-5>", lambda _: self._scroll(1))

    def set_names(self, names: Sequence[str]) -> None:
        """The findings of a network."""
        self.names, self.order = tuple(names), list(range(len(names)))
        self._draw()

    def set_values(self, found: Sequence[Finding], chosen: int | None) -> None:
        """The lines of a film in their order; [] for none yet."""
        self._found, self.chosen = {line.number: line for line in found}, chosen
        if found:
            self.order = [line.number for line in found]
        self._draw()

    def light(self, chosen: int | None) -> None:
        """Lights the line of a finding."""
        self.chosen = chosen
        self._draw()

    def y_of(self, finding: int) -> int:
        """The middle of a finding's row, in pixels of the widget."""
        row = self._look.px(self.ROW)
        return round(self.order.index(finding) * row + row / 2 - self.canvasy(0))

    def step(self, by: int) -> None:
        """Chooses the row above (-1) or below (1)."""
        if not self._found:
            return
        at = self.order.index(self.chosen) + by if self.chosen is not None else 0
        self._choose(self.order[min(len(self.order) - 1, max(0, at))])

    def _choose(self, finding: int | None) -> None:
        self.chosen = finding
        self._draw()
        self._command(finding)

    def _row(self, y: int) -> int | None:
        row = int(self.canvasy(y) // self._look.px(self.ROW))
        return row if 0 <= row < len(self.order) else None

    def _click(self, event: tk.Event) -> None:
        row = self._row(event.y)
        if row is not None and self._found:
            finding = self.order[row]
            self._choose(None if finding == self.chosen else finding)

    def _hover(self, row: int | None) -> None:
        if row != self._under:
            self._under = row
            self._draw()

    def _scroll(self, by: int) -> None:
        if self.bbox("all") and self.bbox("all")[3] > self.winfo_height():
            self.yview_scroll(by, "units")

    def _draw(self) -> None:
        self.delete("all")
        px, width = self._look.px, self.winfo_width()
        row, face = px(self.ROW), self._look.font(13)
        self.configure(scrollregion=(0, 0, width, row * len(self.order)), yscrollincrement=row)
        left, right, end = px(166), width - px(90), width - px(32)
        for i, k in enumerate(self.order):
            top, middle = i * row, i * row + row / 2
            lit, found = k == self.chosen, self._found.get(k)
            if lit or i == self._under:
                self.create_rectangle(0, top, width, top + row, width=0,
                                      fill=RAISED if lit else "#1b2229")
            if lit:
                self.create_rectangle(0, top, px(3), top + row, width=0, fill=CHOSEN)
            self.create_text(px(14), middle, anchor="w", text=self.names[k].replace("_", " "),
                             fill=INK, font=self._look.font(13, lit))
            thick = px(6)
            self.create_line(left, middle, right, middle, width=thick, fill=LINE)
            if found is None:
                self.create_text(end, middle, anchor="e", text="–", fill=FAINT, font=face)
                continue
            at = left + found.probability * (right - left)
            if at - left >= 1:
                self.create_line(left, middle, at, middle, width=thick,
                                 fill=CHOSEN if lit else ACCENT)
            if found.threshold is not None:
                at = left + found.threshold * (right - left)
                self.create_line(at, middle - px(7), at, middle + px(8), width=px(2), fill=INK)
            yes = found.decision in POSITIVE
            self.create_text(end, middle, anchor="e", text=f"{found.probability:.1%}", font=face,
                             fill=INK if yes or lit else FAINT)
            if found.decision:
                r, x = px(4), width - px(14)
                self.create_oval(x - r, middle - r, x + r, middle + r, width=px(1),
                                 fill=BAD if yes else "", outline=BAD if yes else FAINT)
