"""From what a table's cell says to a file in the raw folder, and to nothing outside it."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cxrjax.data.sets._raw import is_film
from cxrjax.data.sets.base import shortlist
from cxrjax.errors import UserError


def stem(name: str) -> str:
    """A file's name without a film's suffix; '1.2.840.10008' is not cut."""
    return name[: -len(Path(name).suffix)] if is_film(name) else name


class FilmFiles:
    """The files of a folder, however deep, and how the cells of a table name them.

    A cell is, in this order: a path within the folder ('/' or '\\'), the same with the folders in
    front that all rows share left off (the set's own name), a file name that lies somewhere in the
    folder, either of them without its suffix, and either of them in another case. Of a name in
    several folders that in the folder with most of the table's names is taken, and said. An
    absolute path (or one with ~) must lead into the folder. Links are followed, as they are the
    user's own; what a table says never leads outside.
    """

    def __init__(self, root: Path, cells: Sequence[str] = (), where: Callable | None = None):
        """`cells` are all that will be asked for, to see which folders in front they share."""
        self.root = root
        self._where = where or (lambda row: str(root))
        self._full = (str(root).replace("\\", "/").rstrip("/"),
                      str(root.resolve()).replace("\\", "/").rstrip("/"))
        self.files = self._walk()
        self._shared = self._shared_folders(cells)
        self._names: dict[str, list[str]] | None = None
        self._asked = {stem(cell.replace("\\", "/").rpartition("/")[2]) for cell in cells}
        self._folders: collections.Counter | None = None
        self.elsewhere: list[str] = []
        self.ways: collections.Counter = collections.Counter()

    def _walk(self) -> dict[str, None]:
        """Paths within the root, sorted, hidden files and folders left out."""
        found, seen = [], set()
        todo = [""]
        while todo:
            inner = todo.pop()
            folder = self.root / inner if inner else self.root
            facts = folder.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue  # a link that leads back
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue  # .DS_Store, and the ._* twins that macOS writes
                    path = f"{inner}/{entry.name}" if inner else entry.name
                    if entry.is_dir():
                        todo.append(path)
                    else:
                        found.append(path)
        return dict.fromkeys(sorted(found))

    def clean(self, cell: str, row: int) -> str:
        """The path within the root that a cell says.

        Raises:
          UserError: it is absolute or leads outside, or cannot be a path.
        """
        text = cell.strip().strip('"').replace("\\", "/")
        if "\0" in text or len(text) > 4000:
            raise UserError(f"{self._where(row)}: {text[:60]!r} is not a path")
        if text.startswith("~"):
            text = os.path.expanduser(text)
        if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:(/|$)", text):
            for full in self._full:
                if text.startswith(full + "/"):
                    text = text[len(full) + 1 :]
                    break
            else:
                raise UserError(
                    f"{self._where(row)}: {cell[:200]!r} does not lie in raw_dir {self.root}: "
                    "paths are those within raw_dir, and nothing outside it is read; make raw_dir "
                    "the folder that holds these films, or write the paths as they are in it"
                )
        parts: list[str] = []
        for part in text.split("/"):
            if part == "..":
                if not parts:
                    raise UserError(
                        f"{self._where(row)}: {cell[:200]!r} leads out of raw_dir {self.root}: "
                        "nothing outside it is read"
                    )
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    def _shared_folders(self, cells: Sequence[str]) -> list[str]:
        """Folders that all cells have in front and that the root does not have."""
        shared: list[str] | None = None
        for row, cell in enumerate(cells):
            if not cell:
                continue
            parts = self.clean(cell, row).split("/")[:-1]
            if shared is None:
                shared = parts
            while shared and parts[: len(shared)] != shared:
                shared.pop()
            if not shared:
                return []
        shared = shared or []
        if not shared or any(path.startswith(f"{shared[0]}/") for path in self.files):
            return []
        return shared

    def _by_name(self, key: str) -> list[str]:
        """Paths by file name, by stem, and by both in small letters ('/' in front of a path)."""
        if self._names is None:
            self._names = {}
            for path in self.files:
                name = path.rpartition("/")[2]
                keys = {name, stem(name), name.casefold(), stem(name).casefold(),
                        f"/{stem(path)}", f"/{path.casefold()}", f"/{stem(path).casefold()}"}
                for one in keys:
                    self._names.setdefault(one, []).append(path)
        return self._names.get(key, [])

    def find(self, cell: str, row: int) -> str | None:
        """The path within the root of the file that a cell names; None where it is missing.

        Raises:
          UserError: see `clean`; or several files fit.
        """
        path = self.clean(cell, row)
        if not path:
            return None
        for skip in range(len(self._shared) + 1):
            inner = "/".join(path.split("/")[skip:])
            if skip and path.split("/")[:skip] != self._shared[:skip]:
                break
            if inner in self.files:
                if skip:
                    self.ways[f"with {'/'.join(self._shared[:skip])}/ left off"] += 1
                return inner
        inner = "/".join(path.split("/")[len(self._shared) :])
        keys = [("without their suffix", f"/{inner}"), ("in another case", f"/{inner.casefold()}")]
        if "/" not in inner:
            keys = [("by their names in folders within", inner),
                    ("in another case", inner.casefold())]
        for way, key in keys:
            fitting = self._by_name(key)
            if len(fitting) > 1:
                films = [p for p in fitting if is_film(p)]
                fitting = films if len(films) == 1 else fitting
            if len(fitting) > 1 and len({p.rpartition("/")[2] for p in fitting}) == 1:
                fitting = self._in_main_folder(fitting)
            if len(fitting) > 1:
                raise UserError(
                    f"{self._where(row)}: {cell[:200]!r} may be {shortlist(fitting)}: write the "
                    "path within raw_dir, with its suffix"
                )
            if fitting:
                if stem(inner) == inner and is_film(fitting[0]):
                    way = "without their suffix" if way != "in another case" else way
                self.ways[way] += 1
                return fitting[0]
        return None

    def _in_main_folder(self, fitting: list[str]) -> list[str]:
        """The one in the folder that holds most films asked for; all, where two hold as many."""
        if self._folders is None:
            self._folders = collections.Counter(
                path.rpartition("/")[0] for path in self.files
                if stem(path.rpartition("/")[2]) in self._asked
            )
        counts = [self._folders[path.rpartition("/")[0]] for path in fitting]
        if counts.count(max(counts)) > 1:
            return fitting
        best = fitting[counts.index(max(counts))]
        self.elsewhere += [path for path in fitting if path != best]
        return [best]

    def notes(self) -> list[str]:
        """How cells named their files, where not by the path itself; lines for the account."""
        lines = [f"{count:,} films were named {way}" for way, count in self.ways.items()]
        if self.elsewhere:
            lines.append(
                f"{len(self.elsewhere):,} names lie in another folder too, where fewer of the "
                f"table's films are; not read: {shortlist(self.elsewhere)}"
            )
        return lines
