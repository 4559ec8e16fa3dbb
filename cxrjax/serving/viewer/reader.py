"""A thread that reads films for the window, so that the window never waits.

All that takes time (restoring the network, reading, compiling, computing) is done in it: it is
asked by `open` and answers in a queue that the window empties from time to time.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import queue
import threading
from collections.abc import Callable

from cxrjax.errors import UserError
from cxrjax.evaluation.answers import read_answers
from cxrjax.names import trusted
from cxrjax.serving.looking import Looker, Network, Reading
from cxrjax.training.restored import Run, restore

KEPT = 12  # readings kept, so that going back is at once


@dataclasses.dataclass(frozen=True)
class Answer:
    """From the reader: the network is ready, a film is read, or something cannot be done.

    Attributes:
      ticket: of the request; the window drops answers to what it no longer asks. 0: the network.
      network, reading: what was asked for.
      error: one line for the user, else ''.
    """

    ticket: int
    network: Network | None = None
    reading: Reading | None = None
    error: str = ""


class Reader:
    """Restores a run and reads films with it in a thread of its own.

    Args:
      load: gives the run.
      network: which of its answers to explain, None for the usual one.
    """

    def __init__(self, load: Callable[[], Run], network: str | None = None):
        self.answers: queue.Queue[Answer] = queue.Queue()
        self._requests: queue.Queue[tuple[int, pathlib.Path, str] | None] = queue.Queue()
        self._load, self._network = load, network
        self._kept: collections.OrderedDict[pathlib.Path, dict[str, Reading]] = (
            collections.OrderedDict())
        self._thread = threading.Thread(target=self._work, daemon=True, name="reader")
        self._thread.start()

    def open(self, ticket: int, path: pathlib.Path, method: str) -> None:
        """Asks for a film; of several requests that wait only the last one is answered."""
        self._requests.put((ticket, path, method))

    def close(self, timeout: int | float = 20.0) -> None:
        """Lets the thread end after what it is doing."""
        self._requests.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            run = self._load()
            looker = Looker(run, read_answers(run.workdir, run), self._network)
            self.answers.put(Answer(0, network=looker.network))
        except UserError as error:
            self.answers.put(Answer(0, error=str(error)))
            return
        # Whatever went wrong, the window has to say so: a dead thread looks like a slow one.
        except Exception as error:
            self.answers.put(Answer(0, error=f"{type(error).__name__}: {error}"))
            return
        while (request := self._next()) is not None:
            ticket, path, method = request
            try:
                self.answers.put(Answer(ticket, reading=self._read(looker, path, method)))
            except UserError as error:
                self.answers.put(Answer(ticket, error=str(error)))
            except Exception as error:
                self.answers.put(Answer(ticket, error=f"{path}: {type(error).__name__}: {error}"))

    def _next(self) -> tuple[int, pathlib.Path, str] | None:
        request = self._requests.get()
        while not self._requests.empty():
            later = self._requests.get()
            if later is None:
                return None
            request = later
        return request

    def _read(self, looker: Looker, path: pathlib.Path, method: str) -> Reading:
        by_method = self._kept.get(path, {})
        if method not in by_method:
            found = looker.read(path, method, next(iter(by_method.values()), None))
            self._kept.setdefault(path, {})[method] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(path)
        return self._kept[path][method]


def loader(workdir: str | None, checkpoint: str) -> Callable[[], Run]:
    """For `Reader`: restores a workdir's checkpoint when it is called."""
    trust = trusted()  # of this thread; the window restores in another
    return lambda: restore(workdir, checkpoint, trust=trust)
