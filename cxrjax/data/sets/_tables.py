"""Tables as users and spreadsheets write them: any separator and encoding, errors with a line.

The standard library's csv module and a few lines of detection do this. pandas would guess types
(an id '00012' becomes 12, an empty cell and 'NA' one thing), drop or pad rows that do not fit, and
costs half a second to import.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cxrjax.data.sets.base import has_controls, printable, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
LARGEST = 1 << 30  # bytes of a table, unpacked: the largest of the published ones has 0.1 GB
MOST_HELD = 700 << 20  # bytes of memory of its cells
LONGEST_ROW = 4 << 20  # characters
LONGEST_NAME = 1000  # characters of a column's name: a whole question of a form, and more
_DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
# What a file is that is called a table and is none, by its first bytes.
_OTHER = {
    b"PK\x03\x04": "an Excel workbook or another archive: save the sheet as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as 'CSV UTF-8'",
    b"PAR1": "a Parquet file: write it as CSV",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF file",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
      path: where it lies.
      header: names of the columns, in order; unnamed columns are left out.
      columns: the cells of each column, stripped, one per row.
      lines: line number of each row in the file, from 1.
      how: encoding and separator in words, for the account.
    """

    path: Path
    header: tuple[str, ...]
    columns: dict[str, list[str]]
    lines: list[int]
    how: str

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """'FILE, line N' of a row."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, name: str) -> list[str]:
        """The cells of a column; UserError with a suggestion if there is none of that name."""
        if name not in self.columns:
            known = map(printable, self.header)
            raise UserError(f"{self.path}: no column {name!r}" + suggest(name, known))
        return self.columns[name]

    def optional(self, name: str) -> list[str]:
        """The cells of a column, empty ones where there is no such column."""
        return self.columns.get(name) or [""] * len(self)


def read(path: Path, required: Sequence[str] = (), keep: Sequence[str] = ()) -> Table:
    """A table with a header line, unpacked if it is gzip by its first bytes.

    Encodings: UTF-8 with and without its mark, UTF-16 (as Excel's 'Unicode text'), else Windows'
    Latin, which is said. Separators: whichever of , ; tab and | cuts the first lines into most
    fields of one number; Excel's 'sep=;' line is obeyed.

    Args:
      path: the file.
      required: columns that must be there.
      keep: columns to keep, all if empty; fewer take less memory.

    Raises:
      UserError: not readable, not a table, a required column missing, a name that two columns have,
        a row with too few or too many fields (its values would stand in wrong columns), no rows,
        more text or cells than a table of films has (memory stays under 1 GB).
    """
    try:
        opener = _opener(path)
        encoding, words = _encoding(path, opener)
        with opener() as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
            return _parse(path, file, words, required, keep)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a table") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); fetch it again"
        ) from None


class _Lines:
    """The lines of a file, as long as a row is not longer than any row of a table is.

    `row` is the number of characters of the row that is being read: set it to 0 after each.
    """

    def __init__(self, file: io.TextIOWrapper, path: Path):
        self.file, self.path, self.row = file, path, 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(LONGEST_ROW + 1):
            self.row += len(line)
            if self.row > LONGEST_ROW:
                raise UserError(
                    f"{self.path}: a row of more than {LONGEST_ROW:,} characters is none of a "
                    "table of films: a quotation mark that is not closed, or another kind of file"
                )
            yield line


def _parse(
    path: Path, file: io.TextIOWrapper, words: str, required: Sequence[str], keep: Sequence[str]
) -> Table:
    head = file.read(100_000)
    file.seek(0)
    first = head.splitlines()[0].strip() if head.strip() else ""
    if first.lower().startswith("sep=") and len(first) == 5:
        delimiter, skipped = first[4], 1
        file.readline()
    else:
        delimiter, skipped = _delimiter(head), 0
    source = _Lines(file, path)
    reader = csv.reader(source, delimiter=delimiter)
    lines: list[int] = []
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), [])
        header = [" ".join(name.split()) for name in header]
        _check_header(path, header, required)
        wanted = [(n, i) for i, n in enumerate(header) if n and (not keep or n in keep)]
        columns: dict[str, list[str]] = {name: [] for name, _ in wanted}
        least = len(header) - header.count("")
        known: dict[str, str] = {}  # equal cells are one object: tables repeat themselves
        held, each = 0, 8 * len(wanted) + 40  # bytes: a row's references and its line number
        for fields in reader:
            source.row = 0
            line = reader.line_num + skipped
            if not any(field.strip() for field in fields):
                continue
            if len(fields) < least:
                raise UserError(
                    f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}: "
                    "the file is cut off or edited; fetch it again"
                )
            if any(field.strip() for field in fields[len(header) :]):
                raise UserError(
                    f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}: "
                    "a separator too many, or one that should stand in quotes"
                )
            lines.append(line)
            held += each
            for name, place in wanted:
                cell = fields[place].strip() if place < len(fields) else ""
                if cell not in known:
                    known[cell] = cell
                    held += sys.getsizeof(cell) + 100  # and its place among the known
                columns[name].append(known[cell])
            if held > MOST_HELD:
                raise UserError(
                    f"{path}, line {line}: up to here alone it takes {MOST_HELD >> 20} MB of "
                    "memory: leave out the columns that are not needed, such as reports"
                )
    except csv.Error as error:
        line = reader.line_num + skipped
        raise UserError(f"{path}, line {line}: not a table ({error})") from None
    if not lines:
        raise UserError(f"{path}: has a header but no rows")
    names = tuple(name for name in header if name)
    return Table(path, names, columns, lines, f"{words}, separated by {_named(delimiter)}")


def _named(delimiter: str) -> str:
    return _DELIMITERS.get(delimiter, repr(delimiter))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    """Opens the table's bytes, unpacked."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return functools.partial(gzip.open if packed else open, path, "rb")


def _pieces(path: Path, opener: Callable[[], BinaryIO]) -> Iterator[bytes]:
    size = 0
    with opener() as file:
        while piece := file.read(1 << 20):
            size += len(piece)
            if size > LARGEST:
                raise UserError(f"{path}: over {LARGEST >> 30} GB of text is no table of films")
            yield piece


def _encoding(path: Path, opener: Callable[[], BinaryIO]) -> tuple[str, str]:
    """(the encoding that all of the file can be read in, the same in words)."""
    with opener() as file:
        head = file.read(4096)
    for magic, what in _OTHER.items():
        if head.startswith(magic):
            raise UserError(f"{path}: is not a table but {what}")
    if not any(piece.strip() for piece in _pieces(path, opener)):
        raise UserError(f"{path}: the file is empty")
    zeros = [head[i::2].count(0) / max(1, len(head[i::2])) for i in (0, 1)]
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        tries = [("utf-32", "UTF-32")]
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        tries = [("utf-16", "UTF-16")]
    elif max(zeros) > 0.4 > 0.1 > min(zeros):  # UTF-16 of western letters without its mark
        tries = [("utf-16-le" if zeros[1] > zeros[0] else "utf-16-be", "UTF-16")]
    else:
        tries = [("utf-8-sig", "UTF-8"), ("cp1252", "Windows-1252 (not UTF-8)")]
    for encoding, words in tries:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            if not any("\0" in decoder.decode(piece) for piece in _pieces(path, opener)):
                decoder.decode(b"", final=True)
                return encoding, words
        except UnicodeDecodeError:
            continue
    raise UserError(
        f"{path}: cannot be read as text (neither UTF-8 nor UTF-16): save it as 'CSV UTF-8'"
    )


def _delimiter(text: str) -> str:
    """The separator that cuts the first rows of a table's beginning into most fields."""
    head = text[: text.rfind("\n") + 1] or text  # ended at a line

    def fields(delimiter: str) -> int:
        try:
            reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
            rows = [row for row, _ in zip(reader, range(20)) if row]
        except csv.Error:
            return 0
        counts = [len(row) for row in rows]
        # The header decides; rows that end in empty fields may be shorter or longer.
        return counts[0] if counts and counts.count(counts[0]) > len(counts) / 2 else 0

    found = {delimiter: fields(delimiter) for delimiter in _DELIMITERS}
    best = max(found, key=found.get)
    return best if found[best] > 1 else max(_DELIMITERS, key=text.partition("\n")[0].count)


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    names = [name for name in header if name]
    for column in required:
        if column not in names:
            raise UserError(
                f"{path}: no column {column!r} in its first line"
                + suggest(column, list(map(printable, names)) or ["an empty line"])
            )
    if not names:
        raise UserError(f"{path}: has no header: its first line should name the columns")
    for name in names:
        if len(name) > LONGEST_NAME:
            raise UserError(
                f"{path}: its first line has a column name of {len(name):,} characters, "
                f"{name[:60]!r} ...: it should name the columns"
            )
        if has_controls(name):
            raise UserError(
                f"{path}: its first line has a column {name[:80]!r}, with a control character: "
                "rename it"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: two columns have the name {shortlist(twice)}: rename one")
