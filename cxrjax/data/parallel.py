"""A map that runs in parallel and answers in order."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """How many this process may use; a container's share of the machine counts, not the machine."""
    import joblib  # it comes with scikit-learn, and takes a tenth of a second to import

    return joblib.cpu_count()


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, together: int = 1
) -> Iterator[Result]:
    """`map` on a pool of threads, in order, with few results waiting.

    Threads, not processes: Pillow and zlib decode without holding the interpreter, nothing has to
    be copied between processes, and none outlives a parent that was killed.

    Args:
      function: of one item.
      items: of any number; they are read as results are taken.
      threads: at work at once.
      together: items that a thread takes at a time; more than one where an item costs so little
        that handing it over counts.
    """

    def of_each(group: list[Item]) -> tuple[list[Result], Exception | None]:
        done: list[Result] = []
        for item in group:
            try:
                done.append(function(item))
            except Exception as error:  # in its place, after the results before it
                return done, error
        return done, None

    def taken(future: Future) -> Iterator[Result]:
        done, error = future.result()
        yield from done
        if error is not None:
            raise error

    pending: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(threads)
    try:
        items = iter(items)
        while group := list(itertools.islice(items, together)):
            pending.append(pool.submit(of_each, group))
            if len(pending) > 4 * threads:
                yield from taken(pending.popleft())
        while pending:
            yield from taken(pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
