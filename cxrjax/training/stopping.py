"""When a training stops before its end: on request, and when its numbers are not finite."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training import processes


@jax.jit
def sound(states: Any) -> jax.Array:
    """bool[]: every weight of the states is finite, and nothing else in them is NaN."""
    # An optimizer's state may begin with an infinity.
    weights = [state.params for state in states.values() if hasattr(state, "params")]
    good = [jnp.isfinite(x).all() for x in jax.tree.leaves(weights)]
    numbers = [x for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(good + [~jnp.isnan(x).any() for x in numbers]).all()


def fault_of(logs: Mapping[str, Any], states: Any = None) -> str:
    """What a call left that is not finite, in words; '' where all is well.

    Args:
      logs: of the call: losses and gradient norms.
      states: after it; None to judge by the logs alone. They are needed before a save, because the
        loss is that of the weights before the last update.
    """
    found = {k: np.asarray(v) for k, v in jax.device_get(dict(logs)).items()}
    for what in ("loss", "grad_norm"):
        for key, values in found.items():
            if key.rpartition("/")[2] == what and not np.isfinite(values).all():
                return f"the {key} is {values[~np.isfinite(values)].flat[0]}"
    return "" if states is None or sound(states) else "the weights are not finite"


class Call(NamedTuple):
    """A compiled call of T steps: the steps before it, its logs [T], positions of films [T, B]."""

    before: int
    logs: Mapping[str, Any]
    positions: np.ndarray


def cause_of(calls: Sequence[Call], films: Films) -> tuple[int, str] | None:
    """The first step whose loss is not finite, and what is to be done; None if all are.

    Args:
      calls: those since the last ones that were sound.
      films: of the training; the films of the step are looked at again.
    """
    for before, logs, positions in calls:
        values = [np.asarray(v) for k, v in jax.device_get(dict(logs)).items()
                  if k.rpartition("/")[2] in ("loss", "grad_norm")]
        bad = ~np.all([np.isfinite(v) for v in values], axis=0)
        if bad.any():
            first = int(np.argmax(bad))
            return before + first + 1, _blame(positions[first], films)
    return None


LOWER = "lower config.optimizer.learning_rate or set config.optimizer.clip_norm"


def _blame(positions: np.ndarray, films: Films) -> str:
    names = []
    for position in positions:
        record = films.source[int(position)]
        name = str(record["id"])
        names.append(name)
        for part in ("image", "mask"):
            if part in record and not np.isfinite(record[part]).all():
                return f"the {part} of film {name!r} has values that are no numbers: mend it, and "\
                       "prepare again"
        label = np.asarray(record["label"])
        if not (np.isnan(label) | (label == 0) | (label == 1)).all():
            return f"the label of film {name!r} is {label.tolist()}, not 0, 1 or unknown"
    shown = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    return f"{LOWER} (the films of that step have no fault: {shown})"


@contextlib.contextmanager
def full_disk_told(workdir: Any, newest: Callable[[], str]) -> Iterator[None]:
    """A disk without space, in one line that says what there is to go on from."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left on the disk of {workdir}. It holds {newest()}: make space, then the "
            "same command goes on from there"
        ) from None


@contextlib.contextmanager
def killed_reader_told(workdir: Any, newest: Callable[[], str]) -> Iterator[None]:
    """A process that reads films and was ended by somebody else, in one line."""
    try:
        yield
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):  # grain's words
            raise
        raise UserError(
            "a process that reads films (config.reading_processes) was ended from outside, as the "
            "system does where memory is short: fewer of them, or config.reading_processes=0, take "
            f"less. {workdir} holds {newest()}: the same command goes on from there"
        ) from None


@contextlib.contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Memory that does not suffice, in one line that says what to lower."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "the device's memory does not suffice: lower config.batch_size, leave "
            "config.cache_on_device off, or set config.model.remat=true or "
            "config.model.dtype=bfloat16 where the network has them "
            f"({' '.join(str(error).split())[:160]})"
        ) from None


_SHORT = (errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_SHORT_WORDS = ("resource_exhausted", "out of memory", "permission_denied",
                *(os.strerror(number).lower() for number in _SHORT))


def is_shortage(error: BaseException) -> bool:
    """Whether something could not be read for want of memory, handles or permission.

    Then nothing is known of what was to be read. Libraries hand on the system's words in errors of
    their own.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SHORT:
        return True
    said = str(error).lower()
    return any(word in said for word in _SHORT_WORDS)


class StopRequest:
    """Ctrl-C or SIGTERM, kept until the step is done: half a step is no state to save.

    `with StopRequest() as stop`: signals do in it what is said here, and after it what they did
    before. A second Ctrl-C ends the process as usual.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        self.forget()

    def _note(self, *_: Any) -> None:
        self.requested = True
        self.forget()

    def agreed(self, meeting: bool) -> bool:
        """Whether to stop now: if it is requested here, or of several processes in any of them.

        Args:
          meeting: several processes ask each other now; every one of them says so alike.
        """
        if jax.process_count() == 1:
            return self.requested
        return meeting and any(processes.exchange("stop" if self.requested else ""))

    def forget(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
