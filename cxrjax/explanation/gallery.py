"""Pictures of explained films: a film beside its heat map, and contact sheets by finding."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cxrjax.data import films_on_disk, progress
from cxrjax.explanation import drawing, heatmaps
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.explanation.marked import Marked
from cxrjax.metrics import localization
from cxrjax.names import file_stem

TILE, LARGE = 320, 640  # pixels of a film on a contact sheet, and in its own picture


@dataclasses.dataclass(frozen=True)
class Style:
    """How pictures are made: see the flags of `--mode=explain`."""

    labels: Sequence[str]
    how: str
    threshold: int | float
    fit: str


def picture(
    style: Style, film: UInt8[np.ndarray, "h w"], heat: Float[np.ndarray, "hh ww"],
    marked: Float[np.ndarray, "m 4"] | None = None, opacity: int | float = 0.5,
) -> Image.Image:
    """The film with heat, the map's boxes, and the marked boxes (fractions) laid over it."""
    height, width = film.shape
    laid = drawing.blend(
        film, drawing.heat_on_film(heat, height, width, style.fit), opacity, style.threshold
    )
    image = Image.fromarray(laid)
    found, _ = heatmaps.regions(heat, style.threshold)
    for boxes, color, dashed in (
        (found, drawing.PREDICTED, False), (marked, drawing.MARKED, True),
    ):
        if boxes is not None and len(boxes):
            on_film = drawing.boxes_on_film(boxes, height, width, style.fit)
            drawing.draw_boxes(image, on_film, color, dashed)
    return image


def tile(
    style: Style, film: UInt8[np.ndarray, "h w"], explanation: Explanation, finding: int,
    marked: Float[np.ndarray, "m 4"] | None = None,
) -> Image.Image:
    """One film of a contact sheet: the overlay under its probability, name and agreement."""
    film = drawing.fit_into(film, TILE)
    image = picture(style, film, explanation.heat[finding], marked)
    lines = [file_name(explanation), *agreement(explanation.heat[finding], marked, style.threshold)]
    return drawing.captioned(image, f"{explanation.probabilities[finding]:.1%}", lines, 14)


def overlay(
    style: Style, film: UInt8[np.ndarray, "h w"], explanation: Explanation, finding: int,
    marked: Float[np.ndarray, "m 4"] | None = None,
) -> Image.Image:
    """A film beside the same film with the heat of one finding, under one caption."""
    film = drawing.fit_into(film, LARGE)
    plain = Image.fromarray(film).convert("RGB")
    if marked is not None and len(marked):
        on_film = drawing.boxes_on_film(marked, *film.shape, style.fit)
        drawing.draw_boxes(plain, on_film, drawing.MARKED, dashed=True)
    laid = picture(style, film, explanation.heat[finding], marked)
    lines = [
        f"{file_name(explanation)}   {style.how}",
        *agreement(explanation.heat[finding], marked, style.threshold),
    ]
    name = style.labels[finding].replace("_", " ")
    title = f"{name}   {explanation.probabilities[finding]:.1%}"
    return drawing.captioned(drawing.side_by_side([plain, laid]), title, lines, 18)


def file_name(explanation: Explanation) -> str:
    """The film's name without its folders."""
    return pathlib.PurePath(explanation.name).name


def agreement(
    heat: Float[np.ndarray, "h w"], marked: Float[np.ndarray, "m 4"] | None, threshold: int | float
) -> list[str]:
    """One line on how the largest region and the highest point lie to the marked boxes, or none."""
    if heat.max(initial=0.0) <= 0:
        return ["nothing on this film speaks for it"]
    if marked is None or not len(marked):
        return []
    found, point = heatmaps.regions(heat, threshold)
    best = localization.iou(np.repeat(found[:1], len(marked), 0), marked).max()
    hit = localization.inside(np.repeat(point[None], len(marked), 0), marked).any()
    return [f"IoU {best:.2f}, highest point {'inside' if hit else 'outside'}"]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Explained films and what is to be shown of them.

    Attributes:
      explanations: of all films.
      show: number of a film -> its pixels.
      sheets: {finding: films on its contact sheet}.
      overlays: (film, finding) with a picture of their own.
      marked: boxes where there are any; its films are those of `explanations`.
    """

    explanations: Sequence[Explanation]
    show: Callable[[int], UInt8[np.ndarray, "h w"]]
    sheets: Mapping[int, Sequence[int]]
    overlays: Sequence[tuple[int, int]]
    marked: Marked | None = None

    def boxes(self, film: int, finding: int) -> Float[np.ndarray, "m 4"] | None:
        return None if self.marked is None else self.marked.boxes(film, finding)


def write_overlay(
    folder: pathlib.Path, stem: str, style: Style, film: UInt8[np.ndarray, "h w"],
    explanation: Explanation, finding: int, marked: Float[np.ndarray, "m 4"] | None = None,
) -> str:
    """Writes the picture of one finding on one film; `stem` names the film among all.

    Returns:
      Its name in the folder.
    """
    name = f"overlays/{file_stem(style.labels[finding])}/{stem}.png"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    overlay(style, film, explanation, finding, marked).save(path)
    return name


def of_before(folder: pathlib.Path) -> set[str]:
    """Names in the folder of the pictures that an explanation made there before, as it says.

    What its list names outside the folder, or what is no picture, is none of them.
    """
    try:
        report = json.loads((folder / "explain.json").read_text())
        names = {*report["sheets"].values(), *report["pictures"]}
        return {name for name in names if name.endswith(".png") and not (folder / name).is_symlink()
                and (folder / name).resolve().is_relative_to(folder.resolve())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def remove(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Removes pictures, and folders of overlays that are empty then."""
    for path in (folder / name for name in names):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def write_pictures(
    folder: pathlib.Path, gallery: Gallery, style: Style, note: str
) -> tuple[dict[str, str], list[str]]:
    """Writes sheets and overlays; {finding: file name of its sheet}, names of the overlays."""
    stems = films_on_disk.picture_names([pathlib.Path(e.name) for e in gallery.explanations])
    stems = list(stems.values())
    by_film: dict[int, list[int]] = {}
    overlays: list[str] = []
    for film, finding in gallery.overlays:
        by_film.setdefault(film, []).append(finding)
    for film, findings in progress.of(by_film.items(), "overlays", len(by_film)):
        pixels = gallery.show(film)
        for k in findings:
            overlays.append(write_overlay(
                folder, stems[film], style, pixels, gallery.explanations[film], k,
                gallery.boxes(film, k)))
    legend = [(drawing.PREDICTED, f"where the heat reaches {style.threshold:.0%} of its maximum")]
    if gallery.marked is not None:
        legend.append((drawing.MARKED, "marked in the data set"))
    written = {}
    for k, films in gallery.sheets.items():
        tiles = [
            tile(style, gallery.show(f), gallery.explanations[f], k, gallery.boxes(f, k))
            for f in films
        ]
        if not tiles:
            continue
        name = style.labels[k]
        sheet = drawing.contact_sheet(
            tiles, name.replace("_", " "), [style.how, note], legend=legend
        )
        file = f"{file_stem(name)}.png"
        sheet.save(folder / file)
        written[name] = file
    return written, overlays
