"""What a long work says of itself: a bar on a terminal, a line now and then in a log.

    for film in progress.of(films, "reading", len(films)):
        ...

In a log (wherever standard error is no terminal) there is a line as it begins, one after half a
minute, and then ever more rarely: each at least a tenth of the time so far after the last one, but
never more than ten minutes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
FIRST, LAST = 30.0, 600.0  # seconds between two lines of a log, at least and at most


def say(words: str) -> None:
    """A line about what is done now, at once."""
    print(words, flush=True)


def on_terminal() -> bool:
    """Whether bars are seen; they are drawn on standard error, as tqdm does."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def of(
    items: Iterable[Item], words: str, total: int, unit: str = "film", *, first: int = 0,
    silent: bool = False, **options: Any,
) -> Iterator[Item]:
    """The items, while it is told how many of them went by.

    Args:
      items: at most `total - first` of them.
      words: what is done, 'reading'.
      total: how many there are in all.
      unit: what one of them is called.
      first: how many were done before.
      silent: whether nothing is told, as in a process that is not the first.
      options: of `tqdm`, for the bar.
    """
    if on_terminal() or silent:
        yield from tqdm(items, words, total, initial=first, unit=unit, disable=silent, **options)
        return
    lines = Lines(words, total, unit, first)
    for item in items:
        yield item
        lines.count()


@contextlib.contextmanager
def counter(
    words: str, total: int, unit: str = "film", *, silent: bool = False
) -> Iterator[Callable[[int], None]]:
    """`of` for what is done in pieces: a function that is told how many more are done."""
    if on_terminal() or silent:
        with tqdm(total=total, desc=words, unit=unit, disable=silent) as bar:
            yield lambda number: bool(bar.update(number))
    else:
        yield Lines(words, total, unit).count


class Lines:
    """The lines of a log about one work, the first of them at once.

    Args:
      words, total, unit, first: as of `of`.
      clock: gives seconds.
    """

    def __init__(self, words: str, total: int, unit: str = "film", first: int = 0,
                 clock: Callable[[], float] = time.monotonic):
        self._words, self._total, self._unit = words, total, unit
        self._several = unit + ("es" if unit.endswith("ch") else "s")
        self._first = self._done = first
        self._clock = clock
        self._begun = clock()
        self._next = self._begun + FIRST
        before = f", {first:,} of them done before" if first else ""
        say(f"{words}: {self._named(total)}{before}")

    def count(self, number: int = 1) -> None:
        """So many more are done."""
        self._done += number
        now = self._clock()
        if now < self._next or self._done >= self._total:
            return
        seconds = now - self._begun
        self._next = now + min(LAST, max(FIRST, seconds / 10))
        rate = (self._done - self._first) / seconds
        left = (self._total - self._done) / rate if rate else 0
        say(f"{self._words}: {self._done:,} of {self._named(self._total)}, "
            f"{self._done / self._total:.0%}, {rate:,.{0 if rate >= 10 else 1}f} "
            f"{self._several}/s, about {_long(left)} left")

    def _named(self, number: int) -> str:
        return f"{number:,} {self._unit if number == 1 else self._several}"


def _long(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
