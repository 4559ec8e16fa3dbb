"""ChestX-ray14 (Wang et al., CVPR 2017): 112,120 frontal films of 30,805 patients, 14 findings.

Raw folder: `Data_Entry_2017.csv` and/or `Data_Entry_2017_v2020.csv`; films in
`images_001/images/*.png` ... `images_012/images/*.png`, in `images/`, or beside the tables;
`train_val_list.txt` and `test_list.txt`; if at hand `official_val_list.txt`, `BBox_List_2017.csv`
and `chexnet_split/{train,val,test}_list.txt.gz`. Films that are not there are counted, not missed.

Traps. The 'CheXNet split' of well-known re-implementations (and of ChestMNIST) is disjoint by
patient but not the official one: 17,920 official test films are in its training list. The official
test set is shifted against the rest (PA views 43% against 65%). No figure without its split: the
protocol line in `Films.info` says which one was used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from cxrjax.data.sets import _published, _raw, _splits
from cxrjax.data.sets._opening import Prepared, open_prepared
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import SPLITS, Account, Films, Splits, WrongFolder, describe, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip
TASK = "multilabel"
MASKS = ()
DEFAULTS = {
    **COMMON_DEFAULTS,
    "labels": "auto",  # '2017', 'v2020' (181 rows corrected), or the corrected table if it is there
    "split": "official",  # 'official', 'chexnet' or 'random' (by patient)
    "view": "",  # 'PA' or 'AP' leaves the other view out of every split
    "val_list": "auto",  # official split: a list file, 'seeded', or the list of the raw folder
    "lists": "",  # a folder with split lists other than those of the raw folder
    "val_share": 0.125,  # official split without a list: share of the train_val patients
    "shares": (0.7, 0.1, 0.2),  # random split: train, val and test shares of the patients
    "seed": 0,
}
PUBLISHED = _published.CHESTXRAY14
PUBLISHED_BOXES = _published.CHESTXRAY14_BOXES

TABLES = {"2017": "Data_Entry_2017.csv", "v2020": "Data_Entry_2017_v2020.csv"}
BOXES = "BBox_List_2017.csv"
BOX_PIXELS = 1024  # the table's boxes are in pixels of the original films
NO_FINDING = "No Finding"
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
KEPT = {  # further columns of the table, by their name beside the films
    "patient": "Patient ID",
    "view": "View Position",
    "follow_up": "Follow-up #",
    "age": "Patient Age",
    "sex": "Patient Gender",
}
LISTS = ("train_val_list.txt", "test_list.txt", "official_val_list.txt", BOXES)
CHEXNET = "chexnet_split"

Box = tuple[str, str, tuple[float, float, float, float]]


class ChestXray14(FilmBuilder, skip_registration=True):
    """NIH ChestX-ray14, decoded to one size; NIH Clinical Center is the provider of the films."""

    name = "chestxray14"
    labels = LABELS
    stored = ("labels",)
    HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    CITATION = "Wang et al., ChestX-ray8, CVPR 2017"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return any((folder / table).is_file() for table in TABLES.values())


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film of the raw folder; see `sets.prepare`."""
    _check_choices(options)
    return prepare_films(ChestXray14, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films and splits them; patients are checked to be on one side."""
    _check_choices(options)
    prepared = open_prepared(ChestXray14, options)
    table = {k: v for k, v in prepared.table.items() if k != "has_mask"}
    table["patient"] = table["patient"].astype(np.int64)
    splits, name, facts = _split(prepared, table, options)
    _splits.check_disjoint(table["patient"], splits, "patient", f"chestxray14, {name}")

    used = np.zeros(len(table["id"]), bool)
    used[np.concatenate(list(splits.values()))] = True
    left_out = {"in no list of the split": int((~used).sum())}
    if options["view"]:
        other = table["view"] != options["view"]
        left_out[f"not {options['view']}"] = int((used & other).sum())
        splits = {s: p[~other[p]] for s, p in splits.items()}
    version = prepared.stored["labels"]
    size = f"{options['image_size']}x{options['image_size']}"
    view = f", {options['view']} views only" if options["view"] else ""
    info = describe(
        f"ChestX-ray14, {name}, {version} labels, {size}{view}",
        options["split"], LABELS, table["label"], splits, left_out,
        labels_version=version, view=options["view"], **facts, **prepared.facts(),
    )  # fmt: skip
    # A mirrored film keeps its findings, and published training mirrors.
    return Films(prepared.source, table, splits, LABELS, TASK, MASKS, info, allow_flip=True)


def _check_choices(options: Mapping[str, Any]) -> None:
    for key, known in (
        ("labels", ("auto", *TABLES)),
        ("split", ("official", "chexnet", "random")),
        ("view", ("", "PA", "AP")),
    ):
        if options[key] not in known:
            raise UserError(
                f"chestxray14: {key}={options[key]!r} is not known"
                + suggest(str(options[key]), [k or "'' (all)" for k in known])
            )


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: table rows joined with the films that are there."""
    raw_dir = _raw.raw_folder(options)
    version = _label_version(raw_dir, options["labels"])
    path = raw_dir / TABLES[version]
    account = Account("chestxray14", raw_dir=str(raw_dir.resolve()))
    entries = _read_entries(path, account)
    folders = _film_folders(raw_dir)
    found = _raw.list_films(folders)
    account.films_found = len(found.films)
    account.notes.append(f"labels of {path.name}")
    account.notes += found.notes()
    places = ", ".join(str(folder) for folder in folders[:3])
    places += f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    if not found.films:
        raise WrongFolder(
            f"chestxray14: no film (*.png) in {places}: unpack the images_*.tar.gz archives there, "
            "as images_001/images/*.png and so on, or as images/*.png"
        )

    rows = []
    for name, (label, columns) in entries.items():
        if name in found.films:
            rows.append(_raw.Row(name, found.films[name], label, columns))
        else:
            account.missing.append(name)
    account.extra_films = [name for name in found.films if name not in entries]
    # Many rows without films are normal (only some archives fetched); many films without rows mean
    # that the films and the table do not belong together.
    if len(account.extra_films) > 0.5 * len(found.films):
        raise WrongFolder(
            f"chestxray14: {path} names only {len(rows):,} of the {len(found.films):,} films in "
            f"{places}, and not {shortlist(account.extra_films)}: films and table do not belong "
            "together"
        )
    if account.missing:
        account.dropped["the film is missing"] = len(account.missing)
        account.notes.append(
            f"{len(account.missing):,} of {account.rows_read:,} rows of {path.name} have no film "
            f"(looked in {places})"
        )
    _match_lists(raw_dir, path, entries, rows, account, options)
    files = {name: raw_dir / name for name in LISTS}
    for split in SPLITS:
        chexnet = _chexnet_list(raw_dir, split)
        files[f"{CHEXNET}/{chexnet.name}"] = chexnet
    files = {name: file for name, file in files.items() if file.is_file()}
    return _raw.Scan(rows, account, {"labels": version}, files)


def _match_lists(
    raw_dir: Path,
    table: Path,
    entries: Mapping[str, Any],
    rows: Sequence[_raw.Row],
    account: Account,
    options: Mapping[str, Any],
) -> None:
    """Says how many films each list of the wanted split names.

    Raises:
      UserError: a list names no film of the table, or together they name under half of the films.
    """
    if options["split"] == "random":
        return
    folder = _raw.folder_of(options["lists"]) if options["lists"] else raw_dir
    if options["split"] == "chexnet":
        files = {split: _chexnet_list(folder, split) for split in SPLITS}
    else:
        files = {key: folder / f"{key}_list.txt" for key in ("train_val", "test")}
        val = folder / "official_val_list.txt"
        if options["val_list"] not in ("auto", "seeded"):
            val = _raw.folder_of(options["val_list"])
        if options["val_list"] != "seeded" and val.is_file():
            files["val"] = val
    try:
        lists = {key: _read_list(file, options["split"]) for key, file in files.items()}
    except UserError as error:  # it may be given when the films are opened
        account.notes.append(f"the {options['split']} split cannot be made of this folder: {error}")
        return
    films = {row.id for row in rows}
    for key, names in lists.items():
        if entries.keys().isdisjoint(names):
            raise UserError(
                f"{files[key]}: none of its {len(names):,} names (such as {names[0]}) is in "
                f"{table.name} (such as {next(iter(entries))}): list and table do not belong "
                "together; give the right lists, or choose split='random'"
            )
    here = {key: films.intersection(names) for key, names in lists.items()}
    named = set().union(*here.values())
    counts = ", ".join(f"{len(names):,} in {key}" for key, names in here.items())
    if len(named) < len(films) / 2:
        raise UserError(
            f"the lists in {folder} name only {len(named):,} of the {len(films):,} films ({counts})"
            ": lists and films do not belong together; give the right lists, or choose "
            "split='random'"
        )
    account.notes.append(f"lists of the {options['split']} split: of {len(films):,} films {counts}")


def _label_version(raw_dir: Path, wanted: str) -> str:
    there = [version for version in ("v2020", "2017") if (raw_dir / TABLES[version]).is_file()]
    if not there:
        raise WrongFolder(
            f"chestxray14: {raw_dir} has neither {' nor '.join(TABLES.values())}: raw_dir is the "
            "folder with NIH's tables"
        )
    if wanted == "auto":
        return there[0]
    if wanted not in there:
        raise UserError(
            f"chestxray14: labels={wanted!r}, but {raw_dir / TABLES[wanted]} does not exist (there "
            f"is {TABLES[there[0]]}: labels={there[0]!r})"
        )
    return wanted


def _read_entries(
    path: Path, account: Account
) -> dict[str, tuple[tuple[float, ...], dict[str, str]]]:
    """{file name: (label, columns)} of a Data_Entry table."""
    entries, first, labels = {}, {}, {}
    for line, row in _raw.read_csv(path, COLUMNS):
        where = f"{path}, line {line}"
        account.rows_read += 1
        name = row["Image Index"]
        _raw.check_file_name(name, where)
        if name in entries:
            if row != first[name][1]:
                raise UserError(
                    f"{where}: {name} stands in line {first[name][0]} already, with other values; "
                    "keep one of the two rows"
                )
            account.duplicate_rows.append(name)
            continue
        if not row["Patient ID"].isdigit():
            raise UserError(f"{where}: Patient ID {row['Patient ID']!r} is not a number")
        columns = {ours: row.get(theirs, "") for ours, theirs in KEPT.items()}
        findings = row["Finding Labels"]  # few of them are different
        label = labels[findings] = labels.get(findings) or _label(findings, where)
        entries[name] = label, columns
        first[name] = line, row
    if account.duplicate_rows:
        account.dropped["a repetition of an earlier row"] = len(account.duplicate_rows)
    return entries


def _label(findings: str, where: str) -> tuple[float, ...]:
    names = [name.strip() for name in findings.split("|")]
    for name in names:
        if name not in LABELS and name != NO_FINDING:
            raise UserError(f"{where}: unknown finding {name!r}" + suggest(name, LABELS))
    if NO_FINDING in names and len(names) > 1:
        raise UserError(f"{where}: {findings!r} says {NO_FINDING!r} beside a finding")
    return tuple(float(label in names) for label in LABELS)


def _film_folders(raw_dir: Path) -> list[Path]:
    """Where films may lie. Only three digits are an NIH archive: images_1024 is not one."""
    folders = []
    for folder in sorted(raw_dir.glob("images*")):
        if folder.is_dir() and re.fullmatch(r"images(_\d{3})?", folder.name):
            folders += [folder / "images"] if (folder / "images").is_dir() else [folder]
    return folders or [raw_dir]


def _chexnet_list(folder: Path, split: str) -> Path:
    """The CheXNet list of a split in `folder` or its chexnet_split; packed unless there is none."""
    for parent in (folder / CHEXNET, folder):
        for suffix in (".txt.gz", ".txt"):
            # NIH's own test_list.txt must not pass for a CheXNet list.
            official = parent == folder and (folder / LISTS[0]).exists()
            if not official and (parent / f"{split}_list{suffix}").is_file():
                return parent / f"{split}_list{suffix}"
    return folder / CHEXNET / f"{split}_list.txt.gz"


def _split(
    prepared: Prepared, table: dict[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[Splits, str, dict[str, Any]]:
    """(splits, how to call them in the protocol, facts for `Films.info`)."""
    folder = Path(options["lists"]).expanduser() if options["lists"] else prepared.directory
    if options["split"] == "random":
        shares = _splits.check_shares(options["shares"], "chestxray14: shares")
        splits = _splits.by_group(table["patient"], shares, options["seed"])
        parts = ":".join(f"{share:g}" for share in shares)
        return splits, f"random split by patient ({parts}, seed {options['seed']})", {}
    if options["split"] == "chexnet":
        files = {split: _chexnet_list(folder, split) for split in SPLITS}
        names = {split: _read_list(file, "chexnet") for split, file in files.items()}
        return _by_lists(table["id"], names), f"CheXNet split ({_listed(names)} by list)", {}

    held = {key: _read_list(folder / f"{key}_list.txt", "official")
            for key in ("train_val", "test")}  # fmt: skip
    train_val = np.isin(table["id"], held["train_val"])
    val_file = folder / "official_val_list.txt"
    if options["val_list"] not in ("auto", "seeded"):
        val_file = Path(options["val_list"]).expanduser()
        if not val_file.is_file():
            raise UserError(f"chestxray14: val_list {val_file} does not exist")
    if options["val_list"] != "seeded" and (options["val_list"] != "auto" or val_file.is_file()):
        val = _read_list(val_file, "official")
        stray = sorted(set(val) - set(held["train_val"]))
        if stray:
            raise UserError(
                f"{val_file}: {len(stray)} films are not in train_val_list.txt, for example "
                f"{stray[0]}: validation films must come out of train_val"
            )
        names = {
            "train": sorted(set(held["train_val"]) - set(val)), "val": val, "test": held["test"],
        }  # fmt: skip
        how = f"official split ({_listed(names)} by list)"
        return _by_lists(table["id"], names), how, {"val_list": val_file.name}
    return _seeded_official(table, train_val, held, options)


def _seeded_official(
    table: dict[str, np.ndarray],
    train_val: Bool[np.ndarray, " n"],
    held: dict[str, list[str]],
    options: Mapping[str, Any],
) -> tuple[Splits, str, dict[str, Any]]:
    share = float(options["val_share"])
    shares = _splits.check_shares((1 - share, share, 0), "chestxray14: val_share")
    inside = np.flatnonzero(train_val)
    carved = _splits.by_group(table["patient"][inside], shares, options["seed"])
    splits = _by_lists(table["id"], {"train": [], "val": [], "test": held["test"]})
    splits |= {split: inside[carved[split]] for split in ("train", "val")}
    how = (
        f"official split ({len(held['train_val']):,} train_val, {len(held['test']):,} test by "
        f"list; val: {share:g} of the patients, seed {options['seed']})"
    )
    return splits, how, {"val_list": "seeded"}


def _listed(names: Mapping[str, list[str]]) -> str:
    return "/".join(f"{len(names[split]):,}" for split in SPLITS)


def _by_lists(ids: Shaped[np.ndarray, " n"], names: Mapping[str, list[str]]) -> Splits:
    return {s: np.flatnonzero(np.isin(ids, names[s])).astype(np.int64) for s in SPLITS}


def _read_list(file: Path, split: str) -> list[str]:
    if not file.is_file():
        raise UserError(
            f"chestxray14: the {split} split needs {file.name}, which was not in the raw folder "
            f"when the films were prepared ({file} does not exist): give its folder as 'lists', or "
            "choose split='random'"
        )
    return _raw.read_list(file)


def read_boxes(folder: str | Path) -> list[Box]:
    """(film id, finding, (x0, y0, x1, y1)) of `BBox_List_2017.csv` in `folder`.

    Coordinates are fractions of the film's width and height, cut to 0..1. The file's 'Infiltrate'
    is LABELS' 'Infiltration'.

    Raises:
      UserError: no such file, not the table, an unknown finding, or a box without an area.
    """
    path, boxes = Path(folder) / BOXES, []
    for line, row in _raw.read_csv(path, ("Image Index", "Finding Label", "Bbox [x")):
        where = f"{path}, line {line}"
        _raw.check_file_name(row["Image Index"], where)
        finding = "Infiltration" if row["Finding Label"] == "Infiltrate" else row["Finding Label"]
        if finding not in LABELS:
            raise UserError(f"{where}: unknown finding {finding!r}" + suggest(finding, LABELS))
        try:
            x, y, w, h = (float(row[key]) / BOX_PIXELS for key in ("Bbox [x", "y", "w", "h]"))
        except (KeyError, ValueError):
            raise UserError(f"{where}: the box is not four numbers x, y, w, h") from None
        box = tuple(min(max(v, 0.0), 1.0) for v in (x, y, x + w, y + h))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise UserError(f"{where}: the box has no area inside the film")
        boxes.append((row["Image Index"], finding, box))
    return boxes


def boxes(options: Mapping[str, Any]) -> list[Box]:
    """`read_boxes` of the table that was kept with the prepared films: needs no raw folder.

    None where the raw folder had no such table.
    """
    directory = open_prepared(ChestXray14, options).directory
    return read_boxes(directory) if (directory / BOXES).exists() else []
