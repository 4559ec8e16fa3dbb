"""The window: films, findings, and where the network looked."""

from __future__ import annotations

import dataclasses
import pathlib
import queue
import sys
import tkinter as tk
import traceback
from tkinter import filedialog, ttk

from cxrjax.data import films_on_disk
from cxrjax.errors import UserError
from cxrjax.explanation import drawing, heatmaps
from cxrjax.serving import looking
from cxrjax.serving import view as views
from cxrjax.serving.looking import Network, Reading
from cxrjax.serving.view import View
from cxrjax.serving.viewer.film import Film
from cxrjax.serving.viewer.keys import KEYS
from cxrjax.serving.viewer.reader import Answer, Reader
from cxrjax.serving.viewer.widgets import (
    ACCENT,
    BACKGROUND,
    BAD,
    FAINT,
    INK,
    LINE,
    PANEL,
    RAISED,
    BusyLine,
    Button,
    Choice,
    Findings,
    Look,
    Slider,
    look_of,
)

POLL = 30  # milliseconds between two looks at the reader's answers
FILM_TYPES = [
    ("Films", [f"*{s}" for name in sorted(films_on_disk.SUFFIXES) for s in (name, name.upper())]),
    ("All files", "*"),
]
WELCOME = "Open a film  (Ctrl+O)\nor a folder of films  (Ctrl+D)"
HELP = "?  all keys"


class Window:
    """Shows films as a `Reader` reads them; `run` returns when the user closes it."""

    def __init__(self, root: tk.Tk, reader: Reader, images: str | None = None):
        self.root, self.reader, self.images = root, reader, images
        self.look: Look = look_of(root)
        self.network: Network | None = None
        self.reading: Reading | None = None
        self.view = View()
        self.method = next(iter(heatmaps.METHODS))
        self.paths: list[pathlib.Path] = []
        self.at = 0
        self.message, self.failed = "", False
        self._no_network = ""
        # The most probable finding of each film, until the user chooses one.
        self._follow = True
        self._ticket = 0
        root.title("cxrjax")
        root.configure(bg=BACKGROUND)
        self._stopped = False
        root.report_callback_exception = self._unexpected
        root.protocol("WM_DELETE_WINDOW", self.close)
        self._style()
        self._build()
        self._bind()
        px = self.look.px
        wide = min(root.winfo_screenwidth(), px(1280))
        high = min(root.winfo_screenheight(), px(800))
        root.geometry(f"{wide}x{high}")
        root.minsize(min(wide, px(900)), min(high, px(640)))
        self.say("restoring the network …")
        self.busy.set(True)
        self._poll()

    def run(self) -> None:
        """Until the window is closed; Ctrl-C in the terminal closes it as well."""
        self.root.mainloop()
        if self._stopped:
            raise KeyboardInterrupt

    # --- layout

    def _style(self) -> None:
        style = ttk.Style(self.root)
        style.theme_use("clam")
        style.configure(
            ".", background=PANEL, foreground=INK, fieldbackground=BACKGROUND, bordercolor=LINE,
            lightcolor=PANEL, darkcolor=PANEL, troughcolor=BACKGROUND, arrowcolor=INK,
            insertcolor=INK, selectbackground=ACCENT, selectforeground=BACKGROUND,
        )
        style.map(".", background=[("active", RAISED), ("disabled", PANEL)],
                  foreground=[("disabled", FAINT)])
        for widget in ("Menu", "Listbox"):  # of the file dialogs
            self.root.option_add(f"*{widget}.background", BACKGROUND)
            self.root.option_add(f"*{widget}.foreground", INK)
        # Where Tk brings its own dialog (X11), hidden files stay hidden. Its variables are there
        # only once it has been asked for; asked for wrongly it does not open.
        try:
            self.root.tk.call("tk_getOpenFile", "-none")
        except tk.TclError:
            pass
        self.root.tk.call("set", "::tk::dialog::file::showHiddenVar", "0")

    def _build(self) -> None:
        self._build_top()
        self.busy = BusyLine(self.root, self.look)
        self.busy.pack(side="top", fill="x")
        self._build_status()
        self._build_panel()
        self.canvas = Film(self.root, self.look, self.see)
        self.canvas.pack(side="left", fill="both", expand=True)

    def _build_top(self) -> None:
        px, look = self.look.px, self.look
        top = tk.Frame(self.root, bg=PANEL, padx=px(12), pady=px(9))
        top.pack(side="top", fill="x")
        self.open_button = Button(top, look, "Open film", self.ask_film)
        self.folder_button = Button(top, look, "Open folder", self.ask_folder)
        self.back_button = Button(top, look, "◀", lambda: self.step(-1))
        self.position = tk.Label(top, bg=PANEL, fg=FAINT, font=look.font(13), width=9)
        self.forth_button = Button(top, look, "▶", lambda: self.step(1))
        self.name = tk.Label(top, bg=PANEL, fg=INK, font=look.font(14, True), anchor="w")
        self.save_button = Button(top, look, "Save picture", self.ask_save)
        self.open_button.pack(side="left")
        self.folder_button.pack(side="left", padx=(px(6), px(20)))
        self.back_button.pack(side="left")
        self.position.pack(side="left")
        self.forth_button.pack(side="left")
        self.save_button.pack(side="right")
        self.name.pack(side="left", fill="x", expand=True, padx=px(16))

    def _build_status(self) -> None:
        px, look = self.look.px, self.look
        status = tk.Frame(self.root, bg=PANEL, padx=px(14), pady=px(6))
        status.pack(side="bottom", fill="x")
        self.status = tk.Label(status, bg=PANEL, fg=FAINT, font=look.font(12), anchor="w")
        keys = tk.Label(status, bg=PANEL, fg=FAINT, font=look.font(12), text=HELP)
        keys.pack(side="right")
        self.status.pack(side="left", fill="x", expand=True)

    def _build_panel(self) -> None:
        px, look = self.look.px, self.look
        panel = tk.Frame(self.root, bg=PANEL, width=px(396), padx=px(16), pady=px(9))
        panel.pack(side="right", fill="y")
        panel.pack_propagate(False)
        self._heading(panel, "FINDINGS").pack(side="top", fill="x")
        self.about = tk.Label(panel, bg=PANEL, fg=FAINT, font=look.font(11), anchor="w",
                              justify="left", wraplength=px(364))
        self.about.pack(side="top", fill="x", pady=(px(2), px(8)))
        controls = tk.Frame(panel, bg=PANEL)
        controls.pack(side="bottom", fill="x")
        self.findings = Findings(panel, look, self.choose)
        self.findings.pack(side="top", fill="both", expand=True)

        self._heading(controls, "HEAT MAP").pack(side="top", fill="x", pady=(px(10), px(6)))
        self.methods = Choice(controls, look, list(heatmaps.METHODS.items()), self.choose_method)
        self.methods.pack(side="top", fill="x", pady=(0, px(6)))
        self.opacity = Slider(controls, look, "Opacity", self.view.opacity,
                              lambda v: self.change(opacity=v))
        self.threshold = Slider(controls, look, "Threshold", self.view.threshold,
                                lambda v: self.change(threshold=v), low=0.05)
        self.opacity.pack(side="top", fill="x")
        self.threshold.pack(side="top", fill="x")
        shown = tk.Frame(controls, bg=PANEL)
        shown.pack(side="top", fill="x", pady=(px(8), 0))
        self.toggles = {
            "heat": Button(shown, look, "Heat", lambda: self.toggle("heat")),
            "boxes": Button(shown, look, "Boxes", lambda: self.toggle("boxes")),
            "masks": Button(shown, look, "Lungs", lambda: self.toggle("masks")),
            "before_after": Button(shown, look, "Before/after",
                                   lambda: self.toggle("before_after")),
        }
        for column, (name, button) in enumerate(self.toggles.items()):
            button.configure(padx=px(6))
            button.grid(row=0, column=column, sticky="ew", padx=(0 if column == 0 else px(4), 0))
            shown.columnconfigure(column, weight=1)
            button.set(getattr(self.view, name))

    def _heading(self, parent: tk.Misc, text: str) -> tk.Label:
        return tk.Label(parent, text=text, bg=PANEL, fg=FAINT, font=self.look.font(11, True),
                        anchor="w")

    def _bind(self) -> None:
        for key in KEYS:
            for event, (method, *arguments) in key.does.items():
                self.root.bind(event, lambda _, m=method, a=arguments: getattr(self, m)(*a))

    # --- what the user does

    def ask_film(self) -> None:
        """The dialog for one film."""
        path = filedialog.askopenfilename(
            parent=self.root, title="Open a film", filetypes=FILM_TYPES, initialdir=self._folder()
        )
        if path:
            self.open(path)

    def ask_folder(self) -> None:
        """The dialog for a folder."""
        path = filedialog.askdirectory(
            parent=self.root, title="Open a folder of films", initialdir=self._folder()
        )
        if path:
            self.open(path)

    def _folder(self) -> str:
        return str(self.paths[self.at].parent) if self.paths else str(pathlib.Path.cwd())

    def open(self, images: str) -> None:
        """Opens a film, a folder or a pattern; what is not there is said in the window."""
        try:
            self.paths, self.at = films_on_disk.find_films(images), 0
        except UserError as error:
            self.say(str(error), failed=True)
            return
        self._ask()

    def step(self, by: int) -> None:
        """Another film of the folder."""
        if self.paths and 0 <= self.at + by < len(self.paths):
            self.at += by
            self._ask()

    def go(self, at: int) -> None:
        """The film at a place of the folder; -1 is the last one."""
        if self.paths and self.at != at % len(self.paths):
            self.at = at % len(self.paths)
            self._ask()

    def step_finding(self, by: int) -> None:
        """The finding above (-1) or below (1)."""
        self.findings.step(by)

    def choose(self, finding: int | None) -> None:
        """Shows the heat map of a finding; None shows the film alone."""
        self._follow = False
        self.findings.light(finding)
        self.change(finding=finding, before_after=False)
        self.toggles["before_after"].set(False)

    def choose_method(self, method: str) -> None:
        """Computes the heat maps in another way."""
        self.method = method
        if self.paths:
            self._ask()

    def toggle(self, name: str) -> None:
        """Turns one of `toggles` on or off."""
        if name == "masks" and not (self.network and self.network.structures):
            self.say("this network has no decoder: it outlines nothing")
            return
        on = not getattr(self.view, name)
        self.toggles[name].set(on)
        self.change(**{name: on})

    def next_method(self) -> None:
        """The heat maps by the method after this one."""
        names = list(heatmaps.METHODS)
        following = names[(names.index(self.method) + 1) % len(names)]
        self.methods.set(following)
        self.choose_method(following)

    def next_colors(self) -> None:
        """The heat in the scale after this one."""
        at = drawing.COLORS.index(self.view.colors) + 1
        self.change(colors=drawing.COLORS[at % len(drawing.COLORS)])

    def slide(self, name: str, by: int | float) -> None:
        """Moves a slider, 'opacity' or 'threshold'."""
        slider = {"opacity": self.opacity, "threshold": self.threshold}[name]
        slider.set(slider.value + by)

    def zoom(self, factor: int | float) -> None:
        """Closer to the middle of the picture, or farther."""
        self.canvas.zoom(factor)

    def pan(self, dx: int, dy: int) -> None:
        """Pulls the film."""
        self.canvas.pan(self.look.px(1) * dx, self.look.px(1) * dy)

    def gray(self, dx: int, dy: int) -> None:
        """Another window and level of grays."""
        self.see(views.windowed(self.view, dx, dy))

    def reset(self) -> None:
        """The whole film in all its grays."""
        self.see(views.reset(self.view))

    def help(self, shown: bool | None = None) -> None:
        """Shows all keys in the film's place; a second time the film."""
        self.canvas.helping = not self.canvas.helping if shown is None else shown
        self.redraw()

    def change(self, **changes: object) -> None:
        """Changes the view and draws it."""
        self.see(dataclasses.replace(self.view, **changes))

    def see(self, view: View) -> None:
        """Another view, drawn."""
        self.view = view
        self.redraw()

    def ask_save(self) -> None:
        """The dialog for the picture's file."""
        if self.reading is None or self.network is None:
            self.say("no film to save a picture of")
            return
        name = self.reading.path.stem
        if self.view.finding is not None and not self.view.before_after:
            name += "_" + self.network.labels[self.view.finding]
        path = filedialog.asksaveasfilename(
            parent=self.root, title="Save the picture", initialfile=f"{name}.png",
            defaultextension=".png", filetypes=[("Pictures", "*.png *.jpg"), ("All files", "*")],
            initialdir=str(pathlib.Path.cwd()),
        )
        if path:
            self.save(pathlib.Path(path))

    def save(self, path: pathlib.Path) -> None:
        """Saves the picture; what goes wrong is said in the window."""
        assert self.reading is not None and self.network is not None
        try:
            views.picture(self.reading, self.view, self.network).save(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.say(f"{path}: the picture cannot be saved ({reason})", failed=True, keep=True)
        else:
            self.say(f"saved {path}")

    def close(self) -> None:
        """Closes the window; the reader's thread ends with what it is doing."""
        self.root.destroy()
        self.reader.close()

    # --- what the reader answers

    def _ask(self) -> None:
        if self._no_network:
            self.say(self._no_network, failed=True)
            return
        self._ticket += 1
        path = self.paths[self.at]
        self.position.configure(text=f"{self.at + 1:,} / {len(self.paths):,}")
        self.name.configure(text=path.name)
        self.back_button.enable(self.at > 0)
        self.forth_button.enable(self.at + 1 < len(self.paths))
        if self.network is not None:
            self.say(f"reading {path.name} …")
        self.busy.set(True)
        self.reader.open(self._ticket, path, self.method)

    def _poll(self) -> None:
        try:
            while True:
                self._take(self.reader.answers.get_nowait())
        except queue.Empty:
            pass
        self.root.after(POLL, self._poll)

    def _take(self, answer: Answer) -> None:
        if answer.ticket == 0:
            self._network_ready(answer)
        elif answer.ticket == self._ticket:
            self.busy.set(False)
            if answer.error:
                self.reading = None
                self.findings.set_values([], None)
                self.say(answer.error, failed=True)
            else:
                self._show(answer.reading)

    def _network_ready(self, answer: Answer) -> None:
        if answer.error:
            self.busy.set(False)
            self.about.configure(text="no network")
            self._no_network = answer.error
            self.say(answer.error, failed=True)
            return
        self.network = answer.network
        self.findings.set_names(self.network.labels)
        self.about.configure(text=f"{self.network.name}: {self.network.about}\n"
                                  f"{looking.how(self.network)} {self.network.purpose}")
        self.root.title(f"cxrjax, {self.network.name}")
        structures = self.network.structures
        self.toggles["masks"].configure(text=structures[0].capitalize() if structures else "Lungs")
        self.toggles["masks"].enable(bool(structures))
        if self.paths:  # a film was asked for while the network was restored
            return
        self.busy.set(False)
        self.say("ready")
        if self.images:
            self.open(self.images)

    def _show(self, reading: Reading) -> None:
        self.reading = reading
        if self._follow:
            self.view = dataclasses.replace(self.view, finding=reading.order()[0])
        self.findings.set_values(looking.findings(reading, self.network), self.view.finding)
        # Of another film the whole is seen first, in the grays that were chosen.
        self.view = dataclasses.replace(self.view, zoom=1.0, center=(0.5, 0.5))
        height, width = reading.size
        about = "   ".join(filter(None, [f"{width} x {height} pixels", reading.gray]))
        if reading.warnings:
            warned = f"Warning: {'; '.join(reading.warnings)}   {reading.path}   {about}"
            self.say(warned, failed=True, keep=True)
        else:
            self.say(f"{reading.path}   {about}")

    def say(self, text: str, failed: bool = False, keep: bool = False) -> None:
        """Shows a message in the status line; a failure also in the film's place.

        Args:
          keep: leave the film where it is although something failed.
        """
        self.message, self.failed = text, failed and not keep
        self.status.configure(text=text, fg=BAD if failed else FAINT)
        self.redraw()

    def _unexpected(self, kind: type, error: BaseException, trace: object) -> None:
        if issubclass(kind, KeyboardInterrupt):  # tkinter would print it and go on
            self._stopped = True
            self.close()
            return
        traceback.print_exception(kind, error, trace, file=sys.stderr)
        self.say(f"{kind.__name__}: {error}", failed=True, keep=True)

    # --- drawing

    def redraw(self) -> None:
        """Gives the film's place what is to be drawn there."""
        canvas = self.canvas
        canvas.reading, canvas.view, canvas.network = self.reading, self.view, self.network
        canvas.failed = self.failed
        canvas.message = self.message if self.failed or self.paths or not self.network else WELCOME
        canvas.title = "This cannot be shown" if self.failed else ""
        canvas.redraw()
