"""The films that visitors of the page dropped: in memory, bounded, gone with the session.

A film is on the disk from its upload until it was read, no longer. What is kept of it is a row of
the table, and its pixels and heat maps as long as there is room for them.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable

from absl import logging
from PIL import Image

from cxrjax.errors import UserError
from cxrjax.serving import looking
from cxrjax.serving.answer_table import Row
from cxrjax.serving.looking import Looker, Reading
from cxrjax.serving.view import View


@dataclasses.dataclass(frozen=True)
class Limits:
    """What visitors may take.

    Attributes:
      films: of one session.
      megabytes: of one file.
      held: bytes of all readings together; the ones that nobody looked at for longest go first.
      sessions: at one time; the one that nobody used for longest goes first.
      seconds: after which `sweep` ends an unused session, if the browser did not say that it has
        ended.
    """

    films: int = 50
    megabytes: int = 64
    held: int = 1 << 29
    sessions: int = 200
    seconds: int | float = 3600.0


@dataclasses.dataclass(frozen=True)
class Film:
    """A film of a session.

    Attributes:
      key: of its reading.
      name: as its file was called.
      row: of the table.
    """

    key: int
    name: str
    row: Row


@dataclasses.dataclass(frozen=True)
class Shown:
    """What one visitor looks at.

    Attributes:
      method: of the heat map.
      view: of the film.
      film: its key; None for none.
      follow: whether each film begins with its most probable finding, as long as none was chosen.
    """

    method: str
    view: View = View()
    film: int | None = None
    follow: bool = True


@dataclasses.dataclass
class Session:
    """One visitor: what is looked at, films in the order they came, when it was used last."""

    shown: Shown
    films: list[Film] = dataclasses.field(default_factory=list)
    used: float = 0.0


class Sessions:
    """Reads films for visitors, one at a time, and keeps what `Limits` allow. Any thread may call.

    Args:
      looker: that reads.
      method: of the heat maps that a film is read with first.
      clock: seconds that only grow.
    """

    def __init__(
        self, looker: Looker, method: str, limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.network, self.limits, self.method = looker.network, limits or Limits(), method
        self._looker, self._clock = looker, clock
        self._sessions: collections.OrderedDict[str, Session] = collections.OrderedDict()
        self._readings: collections.OrderedDict[int, Reading] = collections.OrderedDict()
        self._keys = itertools.count(1)
        self._lock, self._computing = threading.Lock(), threading.Lock()

    def films(self, session: str) -> list[Film]:
        """What a visitor dropped so far."""
        with self._lock:
            return list(self._of(session).films)

    def show(self, session: str, change: Callable[[Shown], Shown] = lambda shown: shown) -> Shown:
        """What a visitor looks at, after a change of it; changes come one after the other."""
        with self._lock:
            own = self._of(session)
            own.shown = change(own.shown)
            return own.shown

    def add(self, session: str, path: pathlib.Path, name: str) -> Film:
        """Reads a file and deletes it; what cannot be read is a film with an error.

        The error is what `--mode=predict` says of the file.
        """
        try:
            with self._lock:
                full = len(self._of(session).films) >= self.limits.films
            if full:
                raise UserError(f"{path}: not read: this session holds {self.limits.films} films, "
                                "which is the most: clear them first")
            if path.stat().st_size > self.limits.megabytes << 20:
                raise UserError(f"{path}: not read: more than {self.limits.megabytes} MB")
            with self._computing:
                found = self._looker.read(path, self.method)
        except (UserError, OSError) as error:
            return self._keep(session, name, None, str(error).removeprefix(f"{path}: "))
        # One visitor's film must not end the page for the others.
        except Exception as error:
            logging.exception("a film could not be read")
            return self._keep(session, name, None, f"cannot be read ({type(error).__name__})")
        finally:
            path.unlink(missing_ok=True)
        return self._keep(session, name, dataclasses.replace(found, path=pathlib.Path(name)))

    def draw(self, session: str, picture: Image.Image, name: str) -> Film:
        """Adds a film that is no file yet."""
        with tempfile.TemporaryDirectory(prefix="cxrjax-drawn-") as folder:
            path = pathlib.Path(folder) / "film.png"
            picture.save(path)
            return self.add(session, path, name)

    def reading(self, session: str, key: int | None, method: str) -> Reading | None:
        """A film of this visitor by a method; None where it is not (or no longer) held.

        Raises:
          UserError: the network cannot be explained by the method.
        """
        with self._lock:
            if not any(film.key == key for film in self._of(session).films):
                return None
            found = self._readings.get(key)
            if found is None:
                return None
            self._readings.move_to_end(key)
        if found.method != method:
            with self._computing:
                found = self._looker.read(found.path, method, found)
            with self._lock:
                if key in self._readings:
                    self._readings[key] = found
        return found

    def drop(self, session: str) -> None:
        """Forgets a visitor and all films of his."""
        with self._lock:
            self._drop(session)

    def clear(self, session: str) -> None:
        """Forgets all films of a visitor, who stays."""
        with self._lock:
            shown = self._of(session).shown
            self._drop(session)
            self._of(session).shown = dataclasses.replace(shown, film=None)

    def sweep(self) -> None:
        """Ends sessions that nobody used for long."""
        with self._lock:
            now = self._clock()
            for name in [n for n, own in self._sessions.items()
                         if now - own.used > self.limits.seconds]:
                self._drop(name)

    def table(self, session: str) -> str:
        """The table of `--mode=predict` of all films of a visitor, as CSV."""
        shape = looking.layout(self.network)
        return shape.head() + "".join(shape.text(film.row) for film in self.films(session))

    @property
    def held(self) -> int:
        """Bytes of all readings."""
        with self._lock:
            return sum(reading.nbytes for reading in self._readings.values())

    def _keep(
        self, session: str, name: str, found: Reading | None, why: str = ""
    ) -> Film:
        why = " ".join(why.split())
        row = (Row(name, self.network.name, error=why) if found is None
               else looking.table_row(name, found, self.network))
        with self._lock:
            film = Film(next(self._keys), name, row)
            films = self._of(session).films
            if len(films) >= 2 * self.limits.films:  # what was refused need not be remembered
                return film
            films.append(film)
            if found is not None:
                self._readings[film.key] = found
                room = self.limits.held - sum(r.nbytes for r in self._readings.values())
                while room < 0 and len(self._readings) > 1:
                    _, gone = self._readings.popitem(last=False)
                    room += gone.nbytes
        return film

    def _of(self, name: str) -> Session:
        """The session, begun if it is new; if they are too many one ends. Call it with the lock."""
        found = self._sessions.setdefault(name, Session(Shown(self.method)))
        found.used = self._clock()
        self._sessions.move_to_end(name)
        while len(self._sessions) > self.limits.sessions:
            self._drop(next(iter(self._sessions)))
        return found

    def _drop(self, name: str) -> None:
        gone = self._sessions.pop(name, None)
        for film in gone.films if gone is not None else ():
            self._readings.pop(film.key, None)
