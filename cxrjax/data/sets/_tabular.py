"""What all data sets do that are a table and a folder of films: rows to films, policies, splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from cxrjax.data.sets import _columns, _duplicates, _splits
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import Prepared
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._raw import Row, is_film
from cxrjax.data.sets._records import Relabelled
from cxrjax.data.sets._tables import Table
from cxrjax.data.sets.base import SPLITS, Account, Films, Splits, describe, printable, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest
from cxrjax.tables import table as markdown

DEFAULTS = {
    **COMMON_DEFAULTS,
    "labels": "",  # which labels, as 'Edema,Fracture'; all of the set if empty
    "uncertain": "ignore",  # 'ignore', 'zeros', 'ones', or by label: 'ignore,Edema=ones'
    "empty": "ignore",  # the same for labels that the table leaves empty
    "split": "",
    "views": "",  # 'frontal', 'PA', 'AP' or 'LATERAL' leaves all other views out of every split
    "shares": (0.7, 0.1, 0.2),  # train, val and test, where the split is made here
    "val_share": 0.1,  # of the training patients, where a split comes without validation films
    "leaks": "refuse",  # or 'allow': patients on two sides of a split that came with the films
    "seed": 0,
}
VIEWS = ("", "frontal", "PA", "AP", "LATERAL")


@dataclasses.dataclass
class Listed:
    """The rows of a table of films, as columns.

    Attributes:
      cells: what names each film.
      label: f32[n, k] of 0, 1, -1 (uncertain) and NaN (empty).
      columns: further columns as text, {name: [n]}.
      masks: for each structure what names its mask, [m][n].
      where: 'FILE, line N' of a row.
    """

    cells: list[str]
    label: Float32[np.ndarray, "n k"]
    columns: dict[str, list[str]]
    where: Callable[[int], str]
    masks: list[list[str]] = dataclasses.field(default_factory=list)


def rows_of(
    listed: Listed, files: FilmFiles, account: Account, ids: Sequence[str] | None = None
) -> list[Row]:
    """Films to prepare, one for each row whose film is there; the account says what became of all.

    A film's id is its file name, or its path within the raw folder where file names repeat.

    Args:
      ids: names for the films instead; one for each row.

    Raises:
      UserError: a cell that leads outside the raw folder or fits several files; two rows of one
        film that say different things; no film at all.
    """
    found: dict[str, int] = {}  # path -> first row
    labels = listed.label.tolist()
    masks: dict[int, tuple[Path | None, ...]] = {}
    used: set[str] = set()
    for row, cell in enumerate(listed.cells):
        if not cell:
            account.missing.append(f"(no name in {listed.where(row)})")
            continue
        path = files.find(cell, row)
        if path is None:
            account.missing.append(cell)
            continue
        first = found.setdefault(path, row)
        if first != row:
            same = str(labels[first]) == str(labels[row]) and all(
                column[first] == column[row] for column in (*listed.columns.values(), *listed.masks)
            )
            if not same:
                raise UserError(
                    f"{listed.where(row)}: {printable(cell)} stands in "
                    f"{_line(listed.where(first))} already, with other values; keep one "
                    "row for each film"
                )
            account.duplicate_rows.append(cell)
            continue
        own = []
        for column in listed.masks:
            mask = files.find(column[row], row) if column[row] else None
            used.add(mask or "")
            own.append(files.root / mask if mask else None)
        masks[row] = tuple(own)
    if account.missing:
        account.dropped["the film is missing"] = len(account.missing)
    if account.duplicate_rows:
        account.dropped["a repetition of an earlier row"] = len(account.duplicate_rows)
    account.films_found += len(found)
    films = [path for path in files.files if is_film(path)]
    left = [path for path in films if path not in found and path not in used]
    of_masks = {_folder(path) for path in used if path} - {_folder(path) for path in found}
    account.masks_without_film += [path for path in left if _folder(path) in of_masks]
    account.extra_films = [path for path in left if _folder(path) not in of_masks]
    account.notes += files.notes()
    if not found:
        there = f"there are {shortlist(films)}" if films else "it holds no film at all"
        row = next((row for row, cell in enumerate(listed.cells) if cell), 0)
        where = f"{listed.where(row)}: " if listed.cells else ""
        cell = printable(listed.cells[row]) if listed.cells else ""
        raise UserError(
            f"{where}{account.dataset}: none of the {len(listed.cells):,} films that the table "
            f"names is in raw_dir {files.root}: the first is {cell!r}, {there}"
        )
    names = [path.rpartition("/")[2] for path in found]
    if len(set(names)) < len(names):
        names = list(found)
    out = []
    for name, (path, row) in zip(names, found.items()):
        columns = {key: column[row] for key, column in listed.columns.items()}
        label = tuple(labels[row])
        name = ids[row] if ids is not None else name
        out.append(Row(name, files.root / path, label, columns, masks[row]))
    return out


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _line(where: str) -> str:
    return where.rpartition(", ")[2]


def label_columns(table: Table, names: Sequence[str]) -> Float32[np.ndarray, "n k"]:
    """1, 0, -1 (uncertain) and NaN (empty) of one column for each label.

    Raises:
      UserError: a column that there is not, or a cell that is no label.
    """
    out = np.empty((len(table), len(names)), np.float32)
    for k, name in enumerate(names):
        known: dict[str, float] = {}
        for row, cell in enumerate(table.column(name)):
            if cell not in known:
                value = _columns.label_of(cell)
                if value is None:
                    raise UserError(
                        f"{table.where(row)}: {cell[:80]!r} in column {printable(name)!r} is no "
                        "label: 1, 0, -1 or 'u' (uncertain), or empty"
                    )
                known[cell] = value
            out[row, k] = known[cell]
    return out


def understood(
    lines: Sequence[tuple[str, Any]],
    rows: Sequence[Row],
    labels: Sequence[str],
    policies: Mapping[str, Mapping[str, str]] | None = None,
) -> list[str]:
    """Two Markdown tables: what was understood, and how often each label has which value.

    Args:
      lines: (what, how it was understood).
      policies: of `_columns.policy`, for 'uncertain' and 'empty'; None for one-of-N classes.
    """
    label = np.array([row.label for row in rows], np.float32).reshape(len(rows), len(labels))
    out = [*markdown(("what", "understood as"), lines), ""]
    if policies is None:
        counts = [(name, f"{int(n):,}") for name, n in zip(labels, label.sum(0))]
        return out + markdown(("class", "films"), counts)
    counts = []
    for k, name in enumerate(labels):
        unsure, empty = int((label[:, k] == -1).sum()), int(np.isnan(label[:, k]).sum())
        counts.append((
            name, f"{int((label[:, k] == 1).sum()):,}", f"{int((label[:, k] == 0).sum()):,}",
            f"{unsure:,}: {_became(policies['uncertain'][name])}" if unsure else "0",
            f"{empty:,}: {_became(policies['empty'][name])}" if empty else "0",
        ))  # fmt: skip
    return out + markdown(("label", "positive", "negative", "uncertain", "empty"), counts)


def _became(policy: str) -> str:
    return {"ignore": "unknown", "zeros": "negative", "ones": "positive"}[policy]


def opened(
    prepared: Prepared,
    options: Mapping[str, Any],
    title: str,
    labels: Sequence[str] = (),
    task: str = "multilabel",
    published_split: bool = True,
    empty: str = "",
    notes: Mapping[str, Any] | None = None,
    allow_flip: bool = True,
) -> Films:
    """Prepared films of a table, with policies, views and split as the options say.

    Column `split` beside the films holds the split that came with them ('' where a film is in
    none); `split='random'` leaves it aside.

    Args:
      title: how the protocol line begins.
      labels: those to give, in order; all if empty.
      task: of the set, where what is prepared does not say.
      published_split: whether the split is one that figures of others are given for.
      empty: policy for empty labels where the option is 'auto'.
      notes: further facts for `Films.info`.
      allow_flip: as in `Films`.
    """
    check_choices(options)
    task = prepared.task or task
    source, table = prepared.source, dict(prepared.table)
    facts: dict[str, Any] = dict(notes or {})
    every = list(prepared.labels)
    wanted = choose_labels(options["name"], labels or every, every)
    if task == "multilabel":
        table["label"], said = relabel(table["label"], every, wanted, options, empty)
        facts |= said
        source = Relabelled(source, table["label"])
    group = groups(table)
    patients = tidy_patients(table)
    keep = in_view(table, options)
    splits, how, name = split(table, keep, group, patients, options, published_split)
    used = np.zeros(len(keep), bool)
    used[np.concatenate(list(splits.values()))] = True
    left_out = {
        f"not {options['views']}": int((~keep).sum()),
        "in no part of the split": int((keep & ~used).sum()),
    }
    leaks = {pair: len(names) for pair, names in _splits.crossing(group, splits).items()}
    if not patients:
        table["group"] = group
        how += "; NO PATIENTS known: films of one patient may be on two sides"
    size = f"{options['image_size']}x{options['image_size']}"
    view = f", {options['views']} views only" if options["views"] else ""
    info = describe(
        f"{title}, {how}, {size}{view}", name, wanted, table["label"], splits, left_out,
        views=options["views"], leaks=leaks, patients_known=patients, **facts, **prepared.facts(),
    )  # fmt: skip
    if prepared.masks:
        info["films_with_mask"] = int(table["has_mask"].sum())
    else:
        del table["has_mask"]
    return Films(
        source, table, splits, tuple(wanted), task, prepared.masks, info, allow_flip=allow_flip
    )


def check_choices(options: Mapping[str, Any]) -> None:
    """Raises UserError where an option that these sets share is none of its values."""
    for key, known in (("views", VIEWS), ("leaks", ("refuse", "allow"))):
        if options[key] not in known:
            shown = [k or "'' (all)" for k in known]
            raise UserError(
                f"{options['name']}: {key}={options[key]!r} is not known"
                + suggest(str(options[key]), shown)
            )


def choose_labels(name: str, wanted: str | Sequence[str], every: Sequence[str]) -> list[str]:
    """The labels that 'Edema,Fracture' (or a sequence) names; UserError if there is no such."""
    if isinstance(wanted, str):
        wanted = [part.strip() for part in wanted.split(",") if part.strip()]
    for label in wanted:
        if label not in every:
            raise UserError(f"{name}: there is no label {label!r}" + suggest(label, every))
    if len(set(wanted)) < len(wanted):
        raise UserError(f"{name}: a label is named twice in {', '.join(wanted)}")
    return list(wanted) or list(every)


def relabel(
    raw: Float32[np.ndarray, "n k"],
    every: Sequence[str],
    wanted: Sequence[str],
    options: Mapping[str, Any],
    empty: str = "",
) -> tuple[Float32[np.ndarray, "n j"], dict[str, Any]]:
    """(labels of 0, 1 and NaN for the wanted labels, the policies and what they did)."""
    policies = policies_of(options, every, empty)
    label = _columns.apply_policies(raw, every, policies["uncertain"], policies["empty"])
    uncertain = {n: int(c) for n, c in zip(every, (raw == -1).sum(0)) if n in wanted}
    places = [list(every).index(name) for name in wanted]
    chosen = {key: {n: p for n, p in of.items() if n in wanted} for key, of in policies.items()}
    return np.ascontiguousarray(label[:, places]), {"policy": chosen, "uncertain": uncertain}


def policies_of(
    options: Mapping[str, Any], labels: Sequence[str], empty: str = ""
) -> dict[str, dict[str, str]]:
    """{'uncertain': {label: policy}, 'empty': {label: policy}} of the options."""
    given = {"uncertain": options["uncertain"], "empty": options["empty"]}
    if given["empty"] == "auto":
        given["empty"] = empty or "ignore"
    return {
        key: _columns.policy(value, labels, f"{options['name']}: {key}")
        for key, value in given.items()
    }


def groups(table: Mapping[str, np.ndarray]) -> Int64[np.ndarray, " n"]:
    """Films that must stay on one side, by number: those of one patient, and exact copies."""
    pairs = []
    for column in ("patient", "content", "origin_id"):
        if column in table:
            pairs += _duplicates.same_value_pairs(table[column])
    return _duplicates.join(len(table["id"]), pairs)


def tidy_patients(table: dict[str, np.ndarray]) -> bool:
    """Whether patients are known; then a film of an unknown one is a patient of its own."""
    patient = table.get("patient")
    if patient is None or not (patient != "").any():
        table.pop("patient", None)
        return False
    alone = np.char.add("film ", table["id"].astype(str))
    table["patient"] = np.where(patient == "", alone, patient)
    return True


def in_view(
    table: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> Shaped[np.ndarray, " n"]:
    """Which films the option `views` keeps."""
    wanted = options["views"]
    if not wanted:
        return np.ones(len(table["id"]), bool)
    if "view" not in table or not (table["view"] != "").any():
        raise UserError(f"{options['name']}: views={wanted!r}, but no film's view is known")
    return np.isin(table["view"], _columns.FRONTAL if wanted == "frontal" else (wanted,))


def split(
    table: Mapping[str, np.ndarray],
    keep: Shaped[np.ndarray, " n"],
    group: Int64[np.ndarray, " n"],
    patients: bool,
    options: Mapping[str, Any],
    published: bool = True,
) -> tuple[Splits, str, str]:
    """(splits of the films to `keep`, in words, the split's name)."""
    name, what = options["name"], "patient" if patients else "film"
    inside = np.flatnonzero(keep)
    side = table.get("split")
    if options["split"] == "random" or side is None or not (side != "").any():
        shares = _splits.check_shares(options["shares"], f"{name}: shares")
        splits = _stratified(inside, group, table["label"], shares, options["seed"])
        parts = ":".join(f"{share:g}" for share in shares)
        how = f"random split by {what}, stratified ({parts}, seed {options['seed']})"
        return splits, how, "random"
    splits = {s: np.flatnonzero(keep & (side == s)).astype(np.int64) for s in SPLITS}
    how = "official split" if published else "the table's own split"
    sides = ("patient", table["patient"]) if patients else ("copies of one film", group)
    leaking = {p: names for p, names in _splits.crossing(sides[1], splits).items() if names}
    if leaking:
        pair, names = next(iter(leaking.items()))
        said = f"{sides[0]}: {len(names):,} on both sides of {pair}"
        said += f", for example {printable(str(names[0]))}" if patients else ""
        if patients and options["leaks"] == "refuse":
            raise UserError(
                f"{name}: {said}: figures would be too good. Mend the split, or make one by "
                "dataset.split=random, or take it as it is with dataset.leaks=allow"
            )
        how += f" ({said})"
    if not len(splits["val"]) and len(splits["train"]):
        share = float(options["val_share"])
        shares = _splits.check_shares((1 - share, share, 0), f"{name}: val_share")
        carved = _stratified(splits["train"], group, table["label"], shares, options["seed"])
        splits |= {s: carved[s] for s in ("train", "val")}
        how += f" (val: {share:g} of the training {what}s, seed {options['seed']})"
    return splits, how, "official" if published else "table"


def _stratified(
    inside: Int64[np.ndarray, " m"],
    group: Int64[np.ndarray, " n"],
    label: Float32[np.ndarray, "n k"],
    shares: Sequence[float],
    seed: int,
) -> Splits:
    """Whole groups, keeping the share of films, of each label, and of films without any."""
    positive = np.nan_to_num(label[inside])
    classes = np.column_stack([
        positive, (positive.sum(1) == 0).astype(np.float32), np.ones(len(inside), np.float32)
    ])  # fmt: skip
    found = _splits.by_group_stratified(group[inside], classes, shares, seed)
    return {s: inside[p].astype(np.int64) for s, p in found.items()}


def one_hot(index: int, count: int) -> list[float]:
    """The label of a class."""
    return [float(k == index) for k in range(count)]
