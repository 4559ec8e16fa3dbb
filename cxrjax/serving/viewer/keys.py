"""Every key and movement of the mouse that the window knows; `?` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Key(NamedTuple):
    """A line of the help.

    Attributes:
      shown: the keys, as they are written on them.
      words: what they do.
      does: {event of Tk: (method of the window, its arguments ...)}.
    """

    shown: str
    words: str
    does: Mapping[str, tuple[Any, ...]]


STEP = 40  # pixels that a key moves the film by
KEYS = (
    Key("←  →", "film before, next film", {"<Left>": ("step", -1), "<Right>": ("step", 1)}),
    Key("Home  End", "first film, last film", {"<Home>": ("go", 0), "<End>": ("go", -1)}),
    Key("↑  ↓", "finding above, below", {"<Up>": ("step_finding", -1),
                                         "<Down>": ("step_finding", 1)}),
    Key("F", "the film alone", {"<f>": ("choose", None)}),
    Key("H   X   L", "heat, boxes, lungs", {"<h>": ("toggle", "heat"), "<x>": ("toggle", "boxes"),
                                            "<l>": ("toggle", "masks")}),
    Key("B", "before and after removing artefacts", {"<b>": ("toggle", "before_after")}),
    Key("C   M", "other colours, other method of heat", {"<c>": ("next_colors",),
                                                         "<m>": ("next_method",)}),
    Key("O   T", "opacity, threshold (Shift: less)", {
        "<o>": ("slide", "opacity", 0.1), "<O>": ("slide", "opacity", -0.1),
        "<t>": ("slide", "threshold", 0.1), "<T>": ("slide", "threshold", -0.1)}),
    Key("+  −", "zoom", {"<plus>": ("zoom", 1.25), "<equal>": ("zoom", 1.25),
                         "<KP_Add>": ("zoom", 1.25), "<minus>": ("zoom", 0.8),
                         "<KP_Subtract>": ("zoom", 0.8)}),
    Key("Shift+arrows", "move the film", {
        "<Shift-Left>": ("pan", STEP, 0), "<Shift-Right>": ("pan", -STEP, 0),
        "<Shift-Up>": ("pan", 0, STEP), "<Shift-Down>": ("pan", 0, -STEP)}),
    Key("[  ]", "gray window narrower, wider", {"<bracketleft>": ("gray", -8, 0),
                                                "<bracketright>": ("gray", 8, 0)}),
    Key(",  .", "gray level lower, higher", {"<comma>": ("gray", 0, -8),
                                             "<period>": ("gray", 0, 8)}),
    Key("0", "the whole film in all its grays", {"<Key-0>": ("reset",), "<KP_0>": ("reset",)}),
    Key("Ctrl+O   Ctrl+D", "open a film, a folder", {"<Control-o>": ("ask_film",),
                                                     "<Control-d>": ("ask_folder",)}),
    Key("Ctrl+S", "save the picture", {"<Control-s>": ("ask_save",)}),
    Key("Ctrl+Q", "close the window", {"<Control-q>": ("close",)}),
    Key("?   Esc", "these lines, and back", {"<question>": ("help",), "<F1>": ("help",),
                                             "<Escape>": ("help", False)}),
)
MOUSE = (
    ("drag", "gray window (across) and level (up, down)"),
    ("right drag, Shift+drag", "move the film"),
    ("wheel", "zoom where the pointer is"),
    ("double click", "the whole film in all its grays"),
)
