"""What every data set gives: films one can index, a table beside them, splits, and an account."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped

from cxrjax.errors import UserError
from cxrjax.names import suggest

SPLITS = ("train", "val", "test")
# `reading` is how films are read that state no range of gray (data/gray.py), `strict` leaves out
# what is unusual for a chest film.
COMMON = ("name", "raw_dir", "data_dir", "image_size", "reading", "strict")
TASKS = ("multilabel", "multiclass")
Splits = dict[str, Int64[np.ndarray, " _"]]
SHOWN = 5  # how many file names an account or an error line prints before "and N more"


class WrongFolder(UserError):
    """The raw folder is not this data set's; `sets.prepare` adds what it looks like."""


@dataclasses.dataclass(frozen=True)
class Films:
    """An opened data set.

    Attributes:
      source: random access to the records: `len(source)`, and `source[i]` gives {image: u8[H,W,1],
        label: f32[K] (NaN = unknown), id: str} and, where `masks` is not empty, {mask: u8[H,W,M] in
        {0,1}, has_mask: bool}. Records are new arrays: changing one does not change the source.
      table: one array per column, row i belonging to `source[i]`. Holds "id" always, "patient"
        where patients are known, else "group" where only duplicates are known. Where a data set
        has them: "sex" ('F', 'M', ''), "age" (f32 years, NaN = unknown), "view" ('PA', 'AP',
        'FRONTAL', 'LATERAL', '', else as it was said), "site". What a film is, wherever else it
        turns up: "content" (a hash of its 8-bit pixels as they were on disk: equal for copies
        only), "phash" (64 hexadecimal digits; copies that were rescaled or compressed differ in at
        most 20 of its 256 bits) and "origin_id" ('chestxray14/00000013_005.png' for a film that
        another set published first, '' for all others), which `sets.identities` reads.
      splits: positions in `source` for train, val and test; disjoint.
      labels: names of the K labels in the order of `label`.
      task: 'multilabel' (K yes/no answers) or 'multiclass' (one of K, one-hot).
      masks: names of the M structures in the order of the mask's last axis; () without masks.
      info: JSON-able facts: 'protocol' (one line that every figure should carry), 'split',
        'counts', 'prevalence' (per split and label) and what else the data set has to say.
      allow_flip: whether a mirrored film is still a plausible one for these labels.
    """

    source: Any
    table: dict[str, np.ndarray]
    splits: Splits
    labels: tuple[str, ...]
    task: str
    masks: tuple[str, ...] = ()
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    allow_flip: bool = False

    def __post_init__(self) -> None:
        size = len(self.source)
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {TASKS}, not {self.task!r}")
        if "id" not in self.table:
            raise ValueError("the table of a data set needs a column 'id'")
        for name, column in self.table.items():
            if len(column) != size:
                raise ValueError(f"column {name!r} has {len(column)} rows for {size} films")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be {SPLITS}, not {tuple(self.splits)}")
        positions = np.concatenate([self.splits[s] for s in SPLITS])
        if positions.size and (positions.min() < 0 or positions.max() >= size):
            raise ValueError("a split points outside the films")
        if np.unique(positions).size != positions.size:
            raise ValueError("a film is in two splits, or twice in one")
        json.dumps(self.info)  # goes into the checkpoint

    def clusters(
        self, positions: Int64[np.ndarray, " n"]
    ) -> tuple[str, Shaped[np.ndarray, " n"] | None]:
        """What a bootstrap draws whole, of the films at `positions`.

        Returns:
          'patient' and the patient of each film where patients are known, else 'group' and its
          group of duplicates, else 'film' and None.
        """
        for column in ("patient", "group"):
            if column in self.table:
                return column, self.table[column][positions]
        return "film", None


@dataclasses.dataclass
class Account:
    """What a preparation read, kept and left out, film by film. Nothing is dropped silently.

    `rows_read == films_stored + sum(dropped.values())` always holds (`check`).
    """

    dataset: str
    raw_dir: str = ""
    directory: str = ""
    rows_read: int = 0
    films_found: int = 0
    films_stored: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    unreadable: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    duplicate_rows: list[str] = dataclasses.field(default_factory=list)
    extra_films: list[str] = dataclasses.field(default_factory=list)
    warned: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    films_without_mask: list[str] = dataclasses.field(default_factory=list)
    masks_empty: int = 0
    ranges_guessed: int | None = None  # films whose gray is by `data/gray.py`; None: not counted
    masks_without_film: list[str] = dataclasses.field(default_factory=list)
    same_films: list[str] = dataclasses.field(default_factory=list)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    modes: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    already_prepared: bool = False

    def check(self) -> None:
        """Raises RuntimeError if a row is neither stored nor accounted for."""
        if self.rows_read != self.films_stored + sum(self.dropped.values()):
            raise RuntimeError(
                f"{self.dataset}: {self.rows_read} rows read, but {self.films_stored} stored and "
                f"{self.dropped} dropped do not add up"
            )

    def to_json(self) -> str:
        """Every field, every file name."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Account:
        """The account that `to_json` wrote."""
        fields = json.loads(text)
        for name in ("unreadable", "warned"):
            fields[name] = [(file, why) for file, why in fields.get(name, [])]
        return cls(**fields)

    def __str__(self) -> str:
        head = f"{self.dataset}: {self.films_stored:,} films in {self.directory}"
        lines = [head + (" (already prepared, left as it is)" if self.already_prepared else "")]
        lines.append(f"  from {self.raw_dir}" if self.raw_dir else "")
        lines.append(f"  rows read {self.rows_read:,}, films found {self.films_found:,}")
        for why, count in self.dropped.items():
            lines.append(f"  dropped {count:,} of {self.rows_read:,} rows: {why}")
        for title, files in (
            ("rows whose film is missing", self.missing),
            ("unreadable", [f"{file} ({why})" for file, why in self.unreadable]),
            ("stored with a warning", [f"{file} ({why})" for file, why in self.warned]),
            ("repeated rows, read once", self.duplicate_rows),
            ("films that the table does not name", self.extra_films),
            ("films without a mask", self.films_without_mask),
            ("masks without a film", self.masks_without_film),
            ("films with the very pixels of another, kept", self.same_films),
        ):
            if files:
                lines.append(f"  {title}: {len(files):,}: {shortlist(files)}")
        if self.ranges_guessed:
            lines.append(
                f"  films that state no range of gray, taken from their values: "
                f"{self.ranges_guessed:,}"
            )
        if self.masks_empty:
            lines.append(f"  empty masks: {self.masks_empty:,}")
        for title, counts in (("sizes", self.sizes), ("kinds", self.modes)):
            if counts:
                parts = [f"{count:,} {what}" for what, count in most_common(counts)]
                lines.append(f"  {title}: {shortlist(parts)}")
        lines += [f"  note: {note}" for note in self.notes]
        if self.seconds and not self.already_prepared:
            rate = self.films_stored / self.seconds
            lines.append(f"  took {self.seconds:.1f} s ({rate:,.0f} films/s)")
        return "\n".join(line for line in lines if line)


def most_common(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Items of a count, largest first, ties by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def shortlist(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more


def printable(text: str, most: int = 300) -> str:
    """What a file says, fit for one line of a terminal: without control characters, not endless."""
    if len(text) > most:
        text = f"{text[: most - 100]} ... {text[-90:]}"
    return repr(text)[1:-1] if has_controls(text) else text


def has_controls(text: str) -> bool:
    """Whether a text has control characters, line ends of any kind, or what is no character."""
    return bool({unicodedata.category(c) for c in text} & {"Cc", "Cs", "Zl", "Zp"})


def merge_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` overridden by `options`.

    Raises:
      UserError: an option that is neither common to all data sets nor in `defaults`.
    """
    for key in options:
        if key not in defaults and key not in COMMON:
            name = options.get("name", "this data set")
            raise UserError(
                f"{name} has no option {key!r}" + suggest(key, [*defaults, *COMMON])
            )
    return {**defaults, **options}


def describe(
    protocol: str,
    split: str,
    labels: Sequence[str],
    label: Float[np.ndarray, "n k"],
    splits: Splits,
    left_out: Mapping[str, int] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """`Films.info`: protocol, counts per split, positives and prevalence per label.

    Args:
      protocol: the line that every figure carries; the numbers of films are added to it.
      label: of all films, NaN = unknown (not counted in the prevalence).
      left_out: films that the split does not use, by reason.
      more: further JSON-able facts.
    """
    left_out = {why: int(n) for why, n in (left_out or {}).items() if n}
    used = sum(p.size for p in splits.values())
    if used + sum(left_out.values()) != len(label):
        raise RuntimeError(f"{len(label)} films, but {used} are split and {left_out} left out")
    counts = {s: int(p.size) for s, p in splits.items()}
    positives, prevalence = {}, {}
    for s, p in splits.items():
        known = np.isfinite(label[p]).sum(0)
        positive = np.nansum(label[p], 0)
        positives[s] = {name: round(float(v), 6) for name, v in zip(labels, positive)}
        prevalence[s] = {
            name: round(float(v / n), 6) if n else None
            for name, v, n in zip(labels, positive, known)
        }
    numbers = "/".join(f"{counts[s]:,}" for s in SPLITS)
    if left_out:
        numbers += "; left out: " + ", ".join(f"{n:,} {why}" for why, n in left_out.items())
    return {
        "protocol": f"{protocol} (train/val/test {numbers})",
        "split": split,
        "counts": counts,
        "positives": positives,
        "prevalence": prevalence,
        "left_out": left_out,
        **more,
    }
