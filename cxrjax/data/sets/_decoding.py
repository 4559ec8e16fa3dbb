"""One row of a raw folder as stored pixels: film and masks read, checked and resized."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data import artifacts, preprocess, reading
from cxrjax.data.sets import _dicom_header as dicom_header
from cxrjax.data.sets._duplicates import perceptual_hash, quick_hash
from cxrjax.data.sets._raw import Row
from cxrjax.errors import UserError


def decode(
    row: Row,
    size: int,
    fit: str,
    clean: bool = False,
    hashed: bool = True,
    header: bool = False,
    version: int = reading.NEWEST,
    strict: bool = False,
) -> dict[str, Any]:
    """One film ready to be stored, and what is worth knowing about it.

    Args:
      row: which film.
      size: pixels of a side of what is stored.
      fit: how the film becomes square, see `preprocess.resize`.
      clean: whether to take bright artefacts out.
      hashed: whether `phash` is that of the film on disk (else of the film as it is stored).
      header: whether to look up sex, age and view in a DICOM file's header.
      version: how films that state no range of gray are read, see `gray`.
      strict: leave out films that are unusual for a chest radiograph.

    Returns:
      {image, mask, has_mask, empty, height, width, kind, guessed, warnings, phash, content, header,
      trouble}; `content` is the first half of the SHA-256 of the film's 8-bit pixels and its size,
      `trouble` is a list of (file, why) and `image` is None if the film itself cannot be used.
      `empty` counts masks with nothing inside; `guessed` and `warnings` are those of `reading`.
    """
    done: dict[str, Any] = {
        "image": None, "has_mask": False, "empty": 0, "guessed": False, "warnings": (),
        "trouble": [],
    }  # fmt: skip
    if not _can_be_text(row.id):
        done["trouble"].append((repr(row.id), "its name is not UTF-8: rename the file"))
        return done
    if isinstance(row.film, Path):
        try:
            film, facts = reading.read_radiograph_with_facts(row.film, version, strict)
        except UserError as error:
            done["trouble"].append((str(row.film), _why(error, row.film)))
            return done
        done["kind"], done["warnings"] = reading.describe(facts), facts.warnings
        done["guessed"] = facts.guessed
    else:
        film, done["kind"] = row.film, "array, 8 bit"
        try:
            reading.look_at(film)
        except UserError as error:
            done["trouble"].append((row.id, str(error)))
            return done
    done["height"], done["width"] = film.shape
    shown = artifacts.remove_bright_artifacts(film) if clean else film
    done["image"] = preprocess.resize(shown, size, fit)[..., None]
    done["phash"] = perceptual_hash(film) if hashed else quick_hash(done["image"][..., 0])
    digest = hashlib.sha256(f"{film.shape[1]}x{film.shape[0]}".encode())
    digest.update(np.ascontiguousarray(film))
    done["content"] = digest.hexdigest()[:32]
    if header and isinstance(row.film, Path):
        done["header"] = dicom_header.read(row.film)
    if row.masks:
        masks = [_decode_mask(path, film.shape, size, fit, done) for path in row.masks]
        done["has_mask"] = all(mask is not None for mask in masks)
        if not done["has_mask"]:
            masks = [np.zeros((size, size), np.uint8)] * len(masks)
        done["mask"] = np.stack(masks, -1)
    return done


def _decode_mask(
    path: Path | None, film_shape: tuple[int, ...], size: int, fit: str, done: dict[str, Any]
) -> np.ndarray | None:
    if path is None:
        return None
    trouble = done["trouble"]
    try:
        mask = reading.read_mask(path)
    except UserError as error:
        trouble.append((str(path), _why(error, path)))
        return None
    # Databases store masks at another size than films, but of the same field of view.
    (height, width), (film_height, film_width) = mask.shape, film_shape
    if abs(height * film_width - width * film_height) > 0.02 * height * film_width:
        why = f"the mask's {width}x{height} pixels do not lie on a film of {film_width}x"
        trouble.append((str(path), f"{why}{film_height}"))
        return None
    resized = preprocess.resize_mask(mask.astype(bool), size, fit)
    if not resized.any():
        trouble.append((str(path), "the mask is empty"))
        done["empty"] += 1
        return None
    if mask.all():
        trouble.append((str(path), "the mask is full: everything is inside"))
        return None
    return resized


def _can_be_text(name: str) -> bool:
    # Names of files that were packed on another system may hold bytes that are no text.
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why(error: UserError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
