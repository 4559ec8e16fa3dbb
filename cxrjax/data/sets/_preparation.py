"""From a raw folder to prepared films on disk, on all cores, all or nothing, with an account."""

from __future__ import annotations

import collections
import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data import parallel, preprocess, progress, reading
from cxrjax.data.sets._decoding import decode
from cxrjax.data.sets._raw import Row, Scan, folder_of
from cxrjax.data.sets._records import FilmBuilder, file_sums, write_records
from cxrjax.data.sets.base import Account, shortlist
from cxrjax.errors import UserError

FORMAT = 1  # part of the directory's name: raise it when what is written changes


PART_BYTES = 256 << 20


TABLE, ACCOUNT, OPTIONS, RECORDS = "films.csv", "account.json", "options.json", "records"


# Options that every prepared data set has beside the common ones.
# `remove_artifacts` acts on the original film, before it is made smaller: its width limit is in
# pixels of a film of about 1,000.
DEFAULTS = {"fit": "stretch", "remove_artifacts": False, "preparing_threads": 0, "prepared": ""}


def fingerprint(rows: Sequence[Row]) -> str:
    """A digest of what is in the raw folder: ids, labels, columns, and the sizes of the files."""
    digest = hashlib.sha256()
    for row in rows:
        sizes = []
        for film in (row.film, *row.masks):
            if isinstance(film, np.ndarray):
                sizes.append(hashlib.sha256(np.ascontiguousarray(film)).hexdigest())
            else:
                there = _stat(film) if film else None
                sizes.append(there.st_size if there else None)
        facts = [row.id, [float(v).hex() for v in row.label], dict(row.columns), sizes]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    """None for a file that is not there (a dangling link): `decode` says so."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def check_options(options: Mapping[str, Any]) -> tuple[Path, int]:
    """(data_dir, image_size) of `options`; raises UserError if they cannot be used."""
    name, size = options["name"], options.get("image_size")
    if not options.get("data_dir"):
        raise UserError(f"{name}: data_dir is not set: give the folder for prepared films")
    if not isinstance(size, int) or isinstance(size, bool) or size < 8:
        raise UserError(f"{name}: image_size must be a whole number of pixels >= 8, not {size!r}")
    if options["fit"] not in preprocess.FITS:
        raise UserError(
            f"{name}: fit must be one of {', '.join(preprocess.FITS)}, not {options['fit']!r}"
        )
    reading.version_of(options)
    threads = options["preparing_threads"]
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise UserError(
            f"{name}: preparing_threads must be a whole number, 0 for all cores, not {threads!r}"
        )
    return folder_of(options["data_dir"]), size


def pixel_options(size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the pixels of prepared films, as stored beside them."""
    cleaned = bool(options["remove_artifacts"])
    decided = {"format": FORMAT, "size": size, "fit": options["fit"], "remove_artifacts": cleaned}
    return {**decided, "strict": True} if options.get("strict") else decided


def readings(directory: Path, stored: Mapping[str, Any]) -> tuple[int, ...]:
    """The ways of reading films (`gray`) that give what is stored in a prepared directory.

    All of them where every film states its gray, as pictures of 8 bits do.
    """
    account = read_account(directory)
    if reading.same_in_every_version(account.modes, account.ranges_guessed):
        return tuple(range(1, reading.NEWEST + 1))
    return (reading.version_of(stored),)


def _directory(data_dir: Path, name: str, stored: Mapping[str, Any], digest: str) -> Path:
    """Where these films go, or already are.

    The way of reading is part of the name unless it is the first, which had no number; what was
    prepared then serves all ways where it is the same in all.
    """
    version = stored["reading"]

    def named(facts: Mapping[str, Any]) -> Path:
        short = hashlib.sha256(json.dumps([facts, digest]).encode()).hexdigest()[:8]
        return data_dir / f"{name}-{stored['size']}px-{short}"

    before = named({key: value for key, value in stored.items() if key != "reading"})
    if version == 1:
        return before
    try:
        there = json.loads((before / OPTIONS).read_text())
    except (OSError, ValueError):
        return named(stored)
    return before if version in readings(before, there) else named(stored)


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Holds `lock`; the system lets go of it when the process ends, however it ends."""
    try:
        file = open(lock, "w")
    except OSError as error:
        raise UserError(f"{lock}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is preparing these films already (it holds {lock})"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def prepare(
    builder: type[FilmBuilder],
    options: Mapping[str, Any],
    scan: Callable[[Mapping[str, Any]], Scan],
) -> Account:
    """Decodes the films that `scan` finds and stores them under `data_dir`.

    Everything is written to a hidden directory that gets its name in one rename at the end: a
    preparation that is killed leaves nothing that could be read, and the next one clears it away.
    What was prepared before from the same raw films with the same options is left as it is.

    Raises:
      UserError: unusable options, a raw folder that is not one, no film that can be read.
    """
    data_dir, size = check_options(options)
    started = time.monotonic()
    if options.get("raw_dir"):
        progress.say(f"{builder.name}: looking through {options['raw_dir']}")
    found = scan(options)
    if found.understood:
        print("\n".join(found.understood), flush=True)
    if not found.rows:
        raise UserError(f"{builder.name}: no film to prepare in {found.account.raw_dir}")
    _check_ids(builder.name, found.rows, found.account)
    if found.labels is not None:
        builder = builder.having(found.labels, found.masks)
        found.resolved |= {
            "label_names": list(found.labels), "mask_names": list(found.masks), "task": found.task,
        }
    stored = {key: options[key] for key in builder.stored}
    stored = {**pixel_options(size, options), **stored, **found.resolved}
    stored["reading"] = options.get("reading", reading.NEWEST)
    digest = fingerprint(found.rows)
    directory = _directory(data_dir, builder.name, stored, digest)

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_dir {data_dir} cannot be made ({error.strerror})") from None
    if directory.exists():  # complete, or it would not have its name: nothing is written to it
        return _as_it_is(directory, found)
    with _only_one(data_dir / f".{directory.name}.lock"):
        if directory.exists():
            return _as_it_is(directory, found)
        _check_space(data_dir, len(found.rows) * size * size)
        if cleared := _clear_broken_off(data_dir, builder.name, directory.name):
            found.account.notes.append(
                f"cleared away {cleared} preparation{'s' * (cleared > 1)} that had been broken off"
            )
        partial = data_dir / f".preparing-{directory.name}"
        partial.mkdir()
        try:
            account = _write(builder, partial, found, size, options)
            account.directory = str(directory)
            account.seconds = round(time.monotonic() - started, 2)
            account.check()
            (partial / ACCOUNT).write_text(account.to_json())
            facts = {
                **stored,
                "fingerprint": digest,
                "raw_dir": account.raw_dir,
                "records": record_sizes(partial),
                "files": file_sums(partial, RECORDS),
            }
            (partial / OPTIONS).write_text(json.dumps(facts, indent=1))
            partial.rename(directory)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            # Of a full disk the writer of the records makes a RuntimeError.
            if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
                raise UserError(
                    f"data_dir {data_dir}: the disk is full; nothing was kept. Choose another "
                    "data_dir or a smaller image_size"
                ) from None
            raise
    return account


def _as_it_is(directory: Path, found: Scan) -> Account:
    """The account of what was prepared before, and what has changed in the raw folder since."""
    account = read_account(directory)
    account.already_prepared, account.directory = True, str(directory)
    account.notes += _changed_files(directory, found.files)
    prepared = (directory / OPTIONS).stat().st_mtime
    newer = []
    for row in found.rows:
        for file in (row.film, *row.masks):
            facts = _stat(file) if isinstance(file, Path) else None
            if facts is not None and facts.st_mtime > prepared:
                newer.append(file.name)
    if newer:
        account.notes.append(
            f"{len(newer):,} raw files were written after the films were prepared (their sizes are "
            f"the same): {shortlist(newer)}; if they changed, delete {directory} and prepare again"
        )
    return account


def _check_ids(name: str, rows: Sequence[Row], account: Account) -> None:
    """Raises UserError where two films have one id: they could be on two sides of a split.

    Ids that differ only in case are said: on another system they may be one file.
    """
    seen: dict[str, Row] = {}
    for row in rows:
        other = seen.setdefault(row.id, row)
        if other is not row:
            files = [r.film for r in (other, row) if isinstance(r.film, Path)]
            where = f": {files[0]} and {files[1]}" if files else ""
            raise UserError(f"{name}: two films have the name {row.id!r}{where}")
    small: dict[str, str] = {}
    first = {name: small.setdefault(name.casefold(), name) for name in seen}
    alike = [f"{other} and {name}" for name, other in first.items() if other != name]
    if alike:
        account.notes.append(
            f"{len(alike):,} pairs of films have names that differ only in case: {shortlist(alike)}"
        )


def _clear_broken_off(data_dir: Path, name: str, own: str) -> int:
    """Deletes what killed preparations of this data set left; one at work holds its lock."""
    cleared = 0
    for partial in data_dir.glob(f".preparing-{name}-*"):
        directory = partial.name.removeprefix(".preparing-")
        try:
            guard = contextlib.nullcontext() if directory == own else _only_one(
                data_dir / f".{directory}.lock"
            )
            with guard:
                shutil.rmtree(partial)
                cleared += 1
        except UserError:
            pass  # somebody is at it
    return cleared


def _stored_bytes(builder: type[FilmBuilder], films: int, size: int) -> int:
    return films * size * size * (1 + len(builder.masks))  # before compression


def _check_space(data_dir: Path, pixels: int) -> None:
    # Records are compressed: real films to about 0.85 of their pixels (masks to almost nothing).
    free = shutil.disk_usage(data_dir).free
    if free < 0.85 * pixels:
        raise UserError(
            f"data_dir {data_dir}: these films take up to {pixels / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free: choose another data_dir or a smaller image_size"
        )


def record_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each record file: what shows that a copy of prepared films is whole."""
    files = sorted(p for p in (directory / RECORDS).rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.stat().st_size for p in files}


def read_account(directory: Path) -> Account:
    """The account of prepared films; UserError if it is not there or not whole."""
    try:
        return Account.from_json((directory / ACCOUNT).read_text())
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{directory / ACCOUNT} is missing or damaged: delete {directory} and prepare again"
        ) from None


def _changed_files(directory: Path, files: Mapping[str, Path]) -> list[str]:
    changed = [
        name
        for name, path in files.items()
        if not (directory / name).exists() or (directory / name).read_bytes() != path.read_bytes()
    ]
    if not changed:
        return []
    return [
        f"the raw folder's {', '.join(changed)} is not what was kept when the films were prepared, "
        f"and is not used: give it as an option, or delete {directory} and prepare again"
    ]


def _write(
    builder: type[FilmBuilder], partial: Path, found: Scan, size: int, options: Mapping[str, Any]
) -> Account:
    rows, account = found.rows, found.account
    account.ranges_guessed = 0
    for name, path in found.files.items():
        (partial / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, partial / name)
    parts = -(-_stored_bytes(builder, len(rows), size) // PART_BYTES)
    part_sizes = [len(part) for part in np.array_split(np.arange(len(rows)), parts)]
    threads = options["preparing_threads"] or parallel.cores()
    tally = _Tally(builder, account, size, patience=min(1000, *part_sizes, len(rows)))

    pixels = ("image", "mask", "has_mask") if builder.masks else ("image",)
    with open(partial / TABLE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(tally.header(rows))

        def films() -> Iterator[dict[str, Any] | None]:
            clean = bool(options["remove_artifacts"])
            fit = options["fit"]
            version = options.get("reading", reading.NEWEST)
            facts = (builder.hashes, builder.headers, version, bool(options.get("strict")))
            decoded = parallel.ordered_map(
                lambda row: decode(row, size, fit, clean, *facts), rows, threads, together=8
            )
            words = f"{builder.name}: reading and storing at {size} px, on {threads} threads"
            bar = progress.of(zip(rows, decoded), words, len(rows), mininterval=0.5)
            for row, film in bar:
                if tally.add(row, film):
                    writer.writerow(tally.line(row, film))
                    label = np.array(row.label, np.float32)
                    yield {**{key: film[key] for key in pixels}, "label": label, "id": row.id}
                else:
                    yield None

        made = builder(size, part_sizes, films(), data_dir=str(partial / RECORDS))
        write_records(made, partial / "downloads")
    shutil.rmtree(partial / "downloads", ignore_errors=True)
    tally.close()
    return account


class _Tally:
    """Writes the account while films go by."""

    def __init__(
        self, builder: type[FilmBuilder], account: Account, size: int, patience: int
    ):
        self.builder, self.account, self.size = builder, account, size
        self.kinds, self.sizes = collections.Counter(), collections.Counter()
        self.enlarged, self.not_square, self.unreadable = [], [], 0
        self.masks_read = 0
        self.patience, self.in_a_row = patience, 0
        self.contents: dict[str, str] = {}  # the first film with these pixels

    def header(self, rows: Sequence[Row]) -> list[str]:
        columns = list(rows[0].columns)
        labels = [f"label:{name}" for name in self.builder.labels]
        return ["id", *columns, *labels, "has_mask", "height", "width", "kind", "phash", "content"]

    def line(self, row: Row, film: Mapping[str, Any]) -> list[str | int]:
        labels = ["" if v != v else f"{v:g}" for v in row.label]
        keys = ("height", "width", "kind", "phash", "content")
        facts = [int(film["has_mask"]), *(film[k] for k in keys)]
        header = film.get("header", {})
        columns = [value or header.get(key, "") for key, value in row.columns.items()]
        return [row.id, *columns, *labels, *facts]

    def add(self, row: Row, film: Mapping[str, Any]) -> bool:
        """Counts one film; False if it cannot be stored. Gives up after `patience` in a row."""
        self.account.unreadable += film["trouble"]
        if film["image"] is None:
            self.unreadable += 1
            self.in_a_row += 1
            if self.in_a_row >= self.patience:
                file, why = film["trouble"][0]
                raise UserError(
                    f"{self.account.dataset}: {self.in_a_row:,} films in a row cannot be read, at "
                    f"last {file}: {why}"
                )
            return False
        self.in_a_row = 0
        self.account.films_stored += 1
        file = str(row.film) if isinstance(row.film, Path) else row.id
        self.account.warned += [(file, line) for line in film["warnings"]]
        self.account.ranges_guessed += film["guessed"]
        self.account.masks_empty += film["empty"]
        self.masks_read += film["has_mask"]
        height, width = film["height"], film["width"]
        self.sizes[f"{width}x{height}"] += 1
        self.kinds[film["kind"]] += 1
        if height != width:
            self.not_square.append(row.id)
        if min(height, width) < self.size:
            self.enlarged.append(row.id)
        first = self.contents.setdefault(film["content"], row.id)
        if first != row.id:
            self.account.same_films.append(f"{row.id} = {first}")
        if self.builder.masks and not film["has_mask"]:
            self.account.films_without_mask.append(row.id)
        return True

    def close(self) -> None:
        account = self.account
        if self.unreadable:
            account.dropped["the film cannot be read"] = self.unreadable
        account.sizes, account.modes = dict(self.sizes), dict(self.kinds)
        if account.masks_empty and not self.masks_read:
            first = next(file for file, why in account.unreadable if "mask is empty" in why)
            raise UserError(
                f"{account.dataset}: all {account.masks_empty:,} masks that could be read are "
                f"empty, the first of them {first}: give the folder of the masks, or mend them"
            )
        if self.not_square:
            names = shortlist(self.not_square)
            account.notes.append(f"{len(self.not_square):,} films are not square: {names}")
        if self.enlarged:
            account.notes.append(
                f"{len(self.enlarged):,} films are smaller than {self.size}x{self.size} and were "
                f"enlarged: {shortlist(self.enlarged)}"
            )
