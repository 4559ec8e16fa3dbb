"""A map that runs in parallel and answers in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """
    pending: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
