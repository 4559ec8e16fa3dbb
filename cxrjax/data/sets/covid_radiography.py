"""COVID-19 Radiography Database (Chowdhury 2020, Rahman 2021): four classes, lung masks.

Raw folder: `<Class>/images/<Class>-N.png` and `<Class>/masks/<Class>-N.png` for the classes COVID,
Lung_Opacity, Normal and Viral Pneumonia. `masks_v7labs/` beside `masks/` holds another definition
(the lung behind the heart is included), chosen by masks='v7labs' and never mixed with the first.
Kept where they exist: `manifest.csv` (column `patient_hint`), `duplicates.csv` (pairs).

Traps. Resolution and colour mode follow the class, so everything becomes gray and one size. COVID
has exact and many near duplicates and there are no patient ids: the `random` split that is commonly
reported leaks, and `Films.info['leaks']` says how much; `grouped` keeps near duplicates and known
patients on one side. The class follows the source hospital, so no accuracy is worth much without
the probe on films whose lungs are blacked out (Maguolo & Nanni 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from cxrjax.data.sets import _duplicates, _published, _raw, _splits
from cxrjax.data.sets._opening import Prepared, open_prepared
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder, describe, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
TASK = "multiclass"
MASKS = ("lungs",)
DEFAULTS = {
    **COMMON_DEFAULTS,
    "masks": "database",  # or 'v7labs'
    "split": "grouped",  # or 'random', 8:2 as commonly reported
    "test_share": 0.2,
    "val_share": 0.1,  # of what is not test
    "hash_distance": 48,  # of 256 bits, see `groups`
    "seed": 0,
}
PUBLISHED = _published.COVID_RADIOGRAPHY

MASK_FOLDERS = {"database": "masks", "v7labs": "masks_v7labs"}
MANIFEST, DUPLICATES = "manifest.csv", "duplicates.csv"


class CovidRadiography(FilmBuilder, skip_registration=True):
    """COVID-19 Radiography Database, decoded to one size, with lung masks."""

    name = "covid_radiography"
    labels = LABELS
    masks = MASKS
    hashes = True
    stored = ("masks",)
    HOMEPAGE = "https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database"
    CITATION = "Chowdhury et al., IEEE Access 2020; Rahman et al., Comput. Biol. Med. 2021"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return sum((folder / label / "images").is_dir() for label in LABELS) >= 2


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film and mask of the raw folder; see `sets.prepare`."""
    _check_choices(options)
    return prepare_films(CovidRadiography, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films; `table['group']` numbers films that belong together."""
    _check_choices(options)
    prepared = open_prepared(CovidRadiography, options)
    table = dict(prepared.table)
    table["group"] = groups(prepared, options["hash_distance"])
    test, val = float(options["test_share"]), float(options["val_share"])
    where = "covid_radiography: test_share and val_share"
    shares = _splits.check_shares(((1 - test) * (1 - val), (1 - test) * val, test), where)
    if options["split"] == "grouped":
        splits = _splits.by_group_stratified(
            table["group"], table["label"], shares, options["seed"]
        )
        _splits.check_disjoint(table["group"], splits, "group", "covid_radiography, grouped split")
    else:
        splits = _splits.by_group(table["id"], shares, options["seed"])
    leaks = {pair: len(names) for pair, names in _splits.crossing(table["group"], splits).items()}

    size = f"{options['image_size']}x{options['image_size']}"
    shown = ":".join(f"{share:g}" for share in np.round(shares, 6))
    protocol = (
        f"COVID-19 Radiography, {options['split']} split ({shown}, seed {options['seed']}), "
        f"{options['masks']} masks, {size}"
    )
    if options["split"] == "random":
        leaked = np.isin(table["group"][splits["test"]], table["group"][splits["train"]]).sum()
        protocol += f", {leaked} test films have a near duplicate or a known patient in train"
    info = describe(
        protocol, options["split"], LABELS, table["label"], splits,
        masks=options["masks"], films_with_mask=int(table["has_mask"].sum()), leaks=leaks,
        group_sizes=_duplicates.group_sizes(table["group"]), **prepared.facts(),
    )  # fmt: skip
    return Films(prepared.source, table, splits, LABELS, TASK, MASKS, info, allow_flip=True)


def groups(prepared: Prepared, distance: int) -> Int64[np.ndarray, " n"]:
    """Films that must stay on one side, by number: near duplicates and known patients.

    Films are joined whose perceptual hashes differ in at most `distance` of 256 bits, that
    `duplicates.csv` names as a pair, or that share a `patient_hint`. Copies that were rescaled,
    compressed or brightened lie within 20 bits, cropped by 1% or annotated ones within 48; two
    films of one patient, or of two, are typically 90-130 apart.
    """
    pairs = _duplicates.near_pairs(prepared.table["phash"].tolist(), distance).tolist()
    pairs += _duplicates.same_value_pairs(prepared.table["patient_hint"])
    position = {name: i for i, name in enumerate(prepared.table["id"].tolist())}
    if (prepared.directory / DUPLICATES).is_file():
        for a, b in _named_pairs(prepared.directory / DUPLICATES):
            if a in position and b in position:
                pairs.append((position[a], position[b]))
    return _duplicates.join(len(position), pairs)


def _check_choices(options: Mapping[str, Any]) -> None:
    for key, known in (("masks", tuple(MASK_FOLDERS)), ("split", ("grouped", "random"))):
        if options[key] not in known:
            raise UserError(
                f"covid_radiography: {key}={options[key]!r} is not known"
                + suggest(str(options[key]), known)
            )
    if not 0 <= options["hash_distance"] <= _duplicates.HASH_BITS:
        raise UserError(
            f"covid_radiography: hash_distance must be 0..{_duplicates.HASH_BITS} bits, not "
            f"{options['hash_distance']}"
        )


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: films by class, each with its mask."""
    raw_dir = _raw.raw_folder(options)
    lacking = [label for label in LABELS if not (raw_dir / label / "images").is_dir()]
    if lacking:
        paths = ", ".join(f"{label}/images" for label in lacking)
        raise WrongFolder(f"covid_radiography: {raw_dir} has no {paths}")
    account = Account("covid_radiography", raw_dir=str(raw_dir.resolve()))
    hints = _patient_hints(raw_dir)
    folder_name = MASK_FOLDERS[options["masks"]]
    rows: dict[str, _raw.Row] = {}
    masks_there = 0
    for label in LABELS:
        found = _raw.list_films([raw_dir / label / "images"])
        if not found.films:
            raise WrongFolder(f"covid_radiography: no film in {raw_dir / label / 'images'}")
        account.films_found += len(found.films)
        account.notes += found.notes()
        account.notes.append(f"{len(found.films):,} films of {label}")
        masks, notes = _masks(raw_dir / label / folder_name)
        account.notes += notes
        masks_there += len(masks)
        strange = [name for name in found.films if not name.startswith(f"{label}-")]
        if strange:
            account.notes.append(
                f"{len(strange):,} films in {label}/images are not named {label}-*: "
                + shortlist(strange)
            )
        one_hot = tuple(float(label == other) for other in LABELS)
        for name, path in found.films.items():
            film_id = path.stem
            if film_id in rows:
                raise UserError(
                    f"covid_radiography: {path} and {rows[film_id].film} have the same name: each "
                    "film must stand once, in the folder of its class"
                )
            columns = {"class": label, "patient_hint": hints.get(f"{label}/images/{name}", "")}
            mask = masks.pop(film_id, None)
            rows[film_id] = _raw.Row(film_id, path, one_hot, columns, (mask,))
        account.masks_without_film += [str(mask) for mask in masks.values()]
    if not masks_there:
        line = f"covid_radiography: no mask in any class's {folder_name} folder of {raw_dir}"
        if options["masks"] != DEFAULTS["masks"]:
            raise UserError(f"{line}: choose masks={DEFAULTS['masks']!r}")
        account.notes.append(line)
    account.rows_read = len(rows)
    account.notes += _matched(raw_dir, rows)
    files = {name: raw_dir / name for name in (DUPLICATES,) if (raw_dir / name).is_file()}
    return _raw.Scan(list(rows.values()), account, {"masks": options["masks"]}, files)


def _masks(folder: Path) -> tuple[dict[str, Path], list[str]]:
    if not folder.is_dir():
        return {}, [f"{folder.parent.name} has no folder {folder.name}"]
    found = _raw.list_films([folder])
    return _raw.by_stem(found.films, "the mask of"), found.notes()


def _patient_hints(raw_dir: Path) -> dict[str, str]:
    """{path within the raw folder: patient} by `manifest.csv`; empty where there is none."""
    if not (raw_dir / MANIFEST).is_file():
        return {}
    rows = _raw.read_csv(raw_dir / MANIFEST, ("path", "patient_hint"))
    return {row["path"].replace("\\", "/"): row["patient_hint"] for _, row in rows}


def _named_pairs(path: Path) -> list[tuple[str, str]]:
    """Pairs of film ids in `duplicates.csv`, whose names may or may not have a suffix."""

    def film_id(name: str) -> str:
        return name[: -len(Path(name).suffix)] if _raw.is_film(name) else name

    return [
        (film_id(row["image_a"]), film_id(row["image_b"]))
        for _, row in _raw.read_csv(path, ("image_a", "image_b"))
    ]


def _matched(raw_dir: Path, rows: Mapping[str, _raw.Row]) -> list[str]:
    """How much of what is known about patients and duplicates is about the films at hand.

    Names that match nothing would leave films apart that belong together.
    """
    notes = []
    if (raw_dir / MANIFEST).is_file():
        known = sum(bool(row.columns["patient_hint"]) for row in rows.values())
        notes.append(f"{MANIFEST} knows the patient of {known:,} of {len(rows):,} films")
    if (raw_dir / DUPLICATES).is_file():
        pairs = _named_pairs(raw_dir / DUPLICATES)
        here = sum(a in rows and b in rows for a, b in pairs)
        notes.append(f"{DUPLICATES} names {len(pairs):,} pairs, {here:,} of them of films here")
    return notes
