"""How fast a training runs, and how much of its time goes into waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Films per second and the share of the time spent waiting for data, first call left out.

    The first call compiles; pauses (evaluation, saving) do not count.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._start = self._marker = None
        self._films = self._marker_films = 0
        self._waited = self._marker_waited = self._paused = self._marker_paused = 0.0

    def waiting(self):
        """A context whose time counts as waiting."""
        return _Timer(self._add_waiting)

    def paused(self):
        """A context whose time counts as neither training nor waiting."""
        return _Timer(self._add_pause)

    def _add_waiting(self, seconds: float) -> None:
        if self._start is not None:
            self._waited += seconds

    def _add_pause(self, seconds: float) -> None:
        if self._start is not None:
            self._paused += seconds

    def count(self, steps_done: int) -> None:
        """Some steps were dispatched."""
        if self._start is None:
            self._start = self._marker = time.perf_counter()
            return
        self._films += steps_done * self._batch_size

    def read(self) -> dict[str, float]:
        """Speed since the last reading."""
        now = time.perf_counter()
        seconds = now - self._marker - (self._paused - self._marker_paused)
        films, waited = self._films - self._marker_films, self._waited - self._marker_waited
        self._marker, self._marker_films = now, self._films
        self._marker_waited, self._marker_paused = self._waited, self._paused
        if films == 0 or seconds <= 0:
            return {"films_per_second": 0.0, "waiting_share": 0.0}
        return {"films_per_second": films / seconds, "waiting_share": waited / seconds}

    @property
    def _seconds(self) -> float:
        if self._start is None or self._marker is None:
            return 0.0
        return self._marker - self._start - self._marker_paused

    @property
    def films_per_second(self) -> float:
        """Over the whole run, up to the last reading."""
        return self._marker_films / self._seconds if self._seconds > 0 else 0.0

    @property
    def waiting_share(self) -> float:
        """Over the whole run, up to the last reading."""
        return self._marker_waited / self._seconds if self._seconds > 0 else 0.0


class _Timer:
    def __init__(self, add: Callable[[float], None]):
        self._add = add

    def __enter__(self) -> None:
        self._from = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._add(time.perf_counter() - self._from)
