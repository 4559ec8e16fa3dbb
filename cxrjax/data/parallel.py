"""The ordered parallel map."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def ordered_map(function: Callable, items: Iterable, workers: int) -> Iterator:
    """`map` on a pool of threads, in order, with few results waiting.

    Threads, not processes: Pillow and zlib decode without holding the interpreter, nothing has to
    be copied between processes, and no worker outlives a parent that was killed.
    """
    pending: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
