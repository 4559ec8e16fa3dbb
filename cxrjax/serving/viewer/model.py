"""What the window shows, without the window: a thread that reads films, and pictures of them.

`Reader` does all that takes time (restoring the network, reading, compiling, computing) in its own
thread, so that the window never waits: it is asked by `open` and answers in a queue that the window
empties from time to time.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cxrjax.data import artifacts, films_on_disk, reading
from cxrjax.errors import UserError
from cxrjax.evaluation.answers import Answers, read_answers
from cxrjax.explanation import drawing, heatmaps
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.names import trusted
from cxrjax.training.restored import Run, restore

LONGEST = 2048  # pixels of a film that are kept for the screen
KEPT = 12  # readings kept, so that going back is at once


@dataclasses.dataclass(frozen=True)
class Network:
    """What the window says about the network that reads.

    Attributes:
      name: of the answer that is explained.
      labels: the findings.
      structures: what its decoder outlines; () without one.
      about: one line: image size, step, what it was trained on.
    """

    name: str
    labels: tuple[str, ...]
    structures: tuple[str, ...]
    about: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """One film, read by the network.

    Attributes:
      path: of the film.
      film: its pixels, at most LONGEST on a side.
      cleaned: the same without bright artefacts (taken out at the film's own size).
      removed: share of the film's pixels that this changes.
      size: (height, width) of the film on disk.
      explanation: probabilities, heat maps and masks.
      method: of the heat maps.
      fit: how the film became the network's square.
      gray: how its values became gray, where the file does not say; else ''.
      warnings: what is unusual about it for a chest radiograph.
    """

    path: pathlib.Path
    film: UInt8[np.ndarray, "h w"]
    cleaned: UInt8[np.ndarray, "h w"]
    removed: float
    size: tuple[int, int]
    explanation: Explanation
    method: str
    fit: str
    gray: str = ""
    warnings: tuple[str, ...] = ()

    def order(self) -> list[int]:
        """The findings, the most probable first."""
        return np.argsort(-self.explanation.probabilities, kind="stable").tolist()


@dataclasses.dataclass(frozen=True)
class View:
    """What of a reading is on the screen; `finding` None shows the film alone."""

    finding: int | None = None
    opacity: int | float = 0.5
    threshold: int | float = 0.5
    heat: bool = True
    boxes: bool = True
    masks: bool = False
    before_after: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """From the reader: the network is ready, a film is read, or something cannot be done.

    Attributes:
      ticket: of the request; the window drops answers to what it no longer asks. 0: the network.
      network, reading: what was asked for.
      error: one line for the user, else ''.
    """

    ticket: int
    network: Network | None = None
    reading: Reading | None = None
    error: str = ""


class Reader:
    """Restores a run and reads films with it in a thread of its own.

    Args:
      load: gives the run.
      network: which of its answers to explain, None for the usual one.
    """

    def __init__(self, load: Callable[[], Run], network: str | None = None):
        self.answers: queue.Queue[Answer] = queue.Queue()
        self._requests: queue.Queue[tuple[int, pathlib.Path, str] | None] = queue.Queue()
        self._load, self._network = load, network
        self._kept: collections.OrderedDict[Any, Reading] = collections.OrderedDict()
        self._compiled: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name="reader")
        self._thread.start()

    def open(self, ticket: int, path: pathlib.Path, method: str) -> None:
        """Asks for a film; of several requests that wait only the last one is answered."""
        self._requests.put((ticket, path, method))

    def close(self, timeout: int | float = 20.0) -> None:
        """Lets the thread end after what it is doing."""
        self._requests.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            run = self._load()
            name = heatmaps.choose_network(run, self._network)
            answers = read_answers(run.workdir, run)
            self.answers.put(Answer(0, network=describe(run, name)))
        except UserError as error:
            self.answers.put(Answer(0, error=str(error)))
            return
        # Whatever went wrong, the window has to say so: a dead thread looks like a slow one.
        except Exception as error:
            self.answers.put(Answer(0, error=f"{type(error).__name__}: {error}"))
            return
        while (request := self._next()) is not None:
            ticket, path, method = request
            try:
                found = self._read(run, name, path, method, answers)
                self.answers.put(Answer(ticket, reading=found))
            except UserError as error:
                self.answers.put(Answer(ticket, error=str(error)))
            except Exception as error:
                self.answers.put(Answer(ticket, error=f"{path}: {type(error).__name__}: {error}"))

    def _next(self) -> tuple[int, pathlib.Path, str] | None:
        request = self._requests.get()
        while not self._requests.empty():
            later = self._requests.get()
            if later is None:
                return None
            request = later
        return request

    def _read(
        self, run: Run, name: str, path: pathlib.Path, method: str, answers: Answers
    ) -> Reading:
        key = (path, method)
        if key not in self._kept:
            if method not in self._compiled:
                self._compiled[method] = heatmaps.make(run, name, method)
            self._kept[key] = read(
                run, self._compiled[method], path, method,
                functools.partial(answers.probabilities, name),
            )
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def describe(run: Run, name: str) -> Network:
    """What the window says about `name`, one of the run's answers."""
    size = run.config.image_shape[0]
    trained_on = run.meta["dataset"].get("protocol", run.config.dataset.name)
    about = f"{size} px, step {run.step:,}, trained on {trained_on}"
    return Network(name, tuple(run.meta["labels"]), tuple(run.meta.get("masks", ())), about)


def loader(workdir: str | None, checkpoint: str) -> Callable[[], Run]:
    """For `Reader`: restores a workdir's checkpoint when it is called."""
    trust = trusted()  # of this thread; the window restores in another
    return lambda: restore(workdir, checkpoint, trust=trust)


def read(
    run: Run, compiled: Any, path: pathlib.Path, method: str,
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Reading:
    """Reads and explains one film; `probabilities` makes them of logits, by default the network's.

    Raises:
      UserError: the film cannot be read, or the network cannot be explained by this method.
    """
    version = reading.version_of(run.config.dataset.to_dict())
    film, facts = reading.read_radiograph_with_facts(path, version)
    cleaned = artifacts.remove_bright_artifacts(film)
    options = run.config.dataset.to_dict()
    ready = films_on_disk.as_prepared(film, run.config.image_shape[0], options)
    (explanation,) = heatmaps.explain(
        run, compiled, run.states, [(str(path), ready)], 1, probabilities)
    longest = min(LONGEST, max(film.shape))
    return Reading(
        path=path,
        film=drawing.fit_into(film, longest),
        cleaned=drawing.fit_into(cleaned, longest),
        removed=float(np.mean(film != cleaned)),
        size=film.shape,
        explanation=explanation,
        method=method,
        fit=run.config.dataset.get("fit", "stretch"),
        gray=facts.gray if facts.guessed else "",
        warnings=facts.warnings,
    )


def render(reading: Reading, view: View, width: int, height: int) -> Image.Image:
    """The film as large as `width` x `height` allow, with what the view lays over it."""
    if view.before_after:
        each = (width - 12) // 2
        pair = [
            Image.fromarray(_fitted(p, each, height)).convert("RGB")
            for p in (reading.film, reading.cleaned)
        ]
        return drawing.side_by_side(pair, 12)
    film = _fitted(reading.film, width, height)
    image = Image.fromarray(film).convert("RGB")
    if view.finding is not None:
        heat = reading.explanation.heat[view.finding]
        if view.heat:
            laid = drawing.heat_on_film(heat, *film.shape, reading.fit)
            image = Image.fromarray(drawing.blend(film, laid, view.opacity, view.threshold))
        if view.boxes:
            found, _ = heatmaps.regions(heat, view.threshold)
            on_film = drawing.boxes_on_film(found, *film.shape, reading.fit)
            drawing.draw_boxes(image, on_film, drawing.PREDICTED)
    if view.masks and reading.explanation.mask is not None:
        for structure in np.moveaxis(reading.explanation.mask, -1, 0):
            inside = drawing.mask_on_film(structure, *film.shape, reading.fit)
            drawing.draw_outline(image, inside, drawing.OUTLINE)
    return image


def _fitted(film: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = min(width / film.shape[1], height / film.shape[0])
    return drawing.fit_into(film, max(1, round(scale * max(film.shape))))


def title(reading: Reading, view: View, labels: tuple[str, ...]) -> str:
    """What the picture shows: the finding and its probability, else the film's name."""
    if view.before_after:
        return f"Before and after removing bright artefacts   {reading.removed:.1%} of pixels"
    if view.finding is None:
        return reading.path.name
    probability = reading.explanation.probabilities[view.finding]
    return f"{labels[view.finding].replace('_', ' ')}   {probability:.1%}"


def save(reading: Reading, view: View, network: Network, path: pathlib.Path) -> None:
    """Saves the picture at the film's own size (800 pixels at least) under a caption.

    Raises:
      UserError: the file cannot be written there, or not as that kind of picture.
    """
    side = max(800, max(reading.film.shape))
    width = 2 * side + 12 if view.before_after else side
    image = render(reading, view, width, side)
    shown = heatmaps.METHODS[reading.method] if view.finding is not None else "no heat map"
    line = f"{reading.path.name}   {network.name}, {shown}"
    picture = drawing.captioned(image, title(reading, view, network.labels), [line], 20)
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: the picture cannot be saved ({reason})") from None
