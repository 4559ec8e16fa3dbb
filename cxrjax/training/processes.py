"""Several processes, on one machine or on many, that train or evaluate one run together.

Each computes its share of every batch; what is reduced over a batch (gradients, batch statistics)
is reduced over all of them, and every one holds all weights. Process 0 alone writes: logs, reports,
checkpoints, messages. What a process finds by itself (a request to stop, a damaged file) it tells
the others with `exchange` before it acts: none may wait for one that went elsewhere.

A process that dies ends the others: its connection to process 0 breaks (`meeting`), or its
heartbeat stops. JAX's library then aborts the process from a thread of its own; what is said there
instead of its dump is one line.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from cxrjax.errors import UserError
from cxrjax.training.meeting import Meeting

AUTO = "auto"  # as a coordinator: what SLURM, Open MPI or the cloud says
LOST = 3  # exit status of a process that another one's death ended
START = 120  # seconds in which all processes must have come
HEARTBEAT = 30  # seconds without a sign of life after which a process is dead
_LONG = 24 * 3600  # of waiting for one that is alive
_VISIBLE = 30  # seconds in which a file of one machine must be seen by the others
_GRACE = 1.0  # seconds for a process to say what it has to say before another's end ends it
_RAW = "CXRJAX_TRACEBACK"  # whoever sets it wants the libraries' own words

_turn, _ending = itertools.count(), threading.Lock()
_state: dict[str, Any] = {"joined": False, "line": b"", "handler": None, "scratch": None,
                          "meeting": None}


def quiet_libraries(argv: Sequence[str]) -> None:
    """Where several processes are asked for, the libraries' dump of a lost one is not printed.

    They read this setting as they are imported.
    """
    if any(word.lstrip("-").startswith("coordinator") for word in argv) and _RAW not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "4"  # whatever it was: JAX itself sets it to 1


def come(
    coordinator: str | None, num_processes: int | None = None, process_id: int | None = None,
    wait: int = START,
) -> None:
    """Tells the other processes that this one is there, as early as it can; `join` waits for them.

    From here on the death of one ends the others. Where somebody else says which processes there
    are ('auto') he ends them as well.

    Raises:
      UserError: numbers that do not go together.
    """
    if coordinator is None or coordinator == AUTO or _state["meeting"] is not None:
        return
    if num_processes is None or process_id is None:
        raise UserError("--coordinator=HOST:PORT needs --num_processes=N and --process_id=I (from "
                        "0 to N - 1)")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: of --num_processes={num_processes} they are "
                        f"0 to {num_processes - 1}")
    _say_at_abort(_lost())
    _state["meeting"] = Meeting(coordinator, num_processes, process_id, wait, _end_soon)


def join(
    coordinator: str | None, num_processes: int | None = None, process_id: int | None = None,
    wait: int = START,
) -> None:
    """Makes this process one of several; without a coordinator it stays alone.

    Must come before anything is computed.

    Args:
      coordinator: HOST:PORT of process 0, or 'auto' for what SLURM, Open MPI or the cloud says.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      wait: seconds in which all must have come.

    Raises:
      UserError: numbers that do not go together, or the others do not come.
    """
    if coordinator is None:
        return
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise UserError("--coordinator=auto finds the number of processes and this one's by "
                            "itself: leave --num_processes and --process_id out")
        where, options = "the coordinator", {"initialization_timeout": wait}
        _say_at_abort(f"not all processes came to {where} within {wait} s: start every one of them")
    else:
        come(coordinator, num_processes, process_id, wait)
        try:
            _state["meeting"].wait()
        except UserError:
            _state["meeting"] = None
            raise
        where = coordinator
        options = {"coordinator_address": coordinator, "num_processes": num_processes,
                   "process_id": process_id, "cluster_detection_method": "deactivate",
                   # All are there and watched, but one may import slowly.
                   "initialization_timeout": 10 * wait}
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It takes SIGTERM for itself; here that saves and stops.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if process_id:
            _until_it_listens(coordinator)
        jax.distributed.initialize(
            **options, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=_LONG,
        )
    except ValueError as error:
        if coordinator != AUTO:
            raise
        raise UserError("--coordinator=auto: neither SLURM nor Open MPI nor a cloud says which "
                        "processes there are: give --coordinator=HOST:PORT --num_processes=N "
                        f"--process_id=I ({error})") from None
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        if "before any JAX" in why:
            why = "the config file computes as it is imported, which must come after the start"
        raise UserError(
            f"this process could not begin as one of several at {where}: {why}"
            + " (is the port in use?)" * ("RPC server" in why)
        ) from None
    _state["joined"] = True
    _say_at_abort(_lost())
    if not is_first():
        # Messages of libraries in C++ go to the file descriptor itself.
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        logging.set_verbosity(logging.ERROR)
    counts = exchange(str(jax.local_device_count()))
    if _state["meeting"] is not None:
        atexit.register(_state["meeting"].leave)  # `end` goes without a word
    if len(set(counts)) > 1:
        raise UserError(f"the processes have {', '.join(counts)} devices: every one must have as "
                        "many (CUDA_VISIBLE_DEVICES chooses some)")


def _until_it_listens(coordinator: str) -> None:
    """Waits for JAX's service in process 0, which may still import: JAX itself asks again late.

    That process 0 is alive is watched elsewhere.
    """
    host, _, port = coordinator.rpartition(":")
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError:
            time.sleep(0.1)


def _end_soon() -> None:
    """Where all have found the same fault and one has ended already, the others say it, too."""
    time.sleep(_GRACE)
    _end_with_line()


def _end_with_line() -> None:
    with _ending:  # it is known in several threads at a time, and said once
        os.write(2, _state["line"])
        os._exit(LOST)


def _lost() -> str:
    return ("another process of this run ended, or the connection to it: every process ends. What "
            "it said stands in its own output; the same commands, with as many processes or "
            "others, go on from the newest checkpoint")


def _say_at_abort(line: str) -> None:
    """What is printed where a library aborts this process (`abort` in C), instead of its dump."""
    _state["line"] = f"error: {line}\n".encode()
    if _RAW in os.environ or _state["handler"] is not None or sys.platform == "win32":
        return

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_: int) -> None:
        _end_with_line()

    _state["handler"] = handler  # C has its address only: it must not be collected
    # Python's own handlers run in the main thread, and after the abort there is none.
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def is_first() -> bool:
    """Whether this is the process that writes; one alone is."""
    import jax

    return jax.process_index() == 0


def exchange(text: str = "") -> list[str]:
    """What every process says at this point, in their order; waits for the last one.

    All must come here alike. One alone hears itself.
    """
    import jax

    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return [text]
    # JAX has no public name for the table that its processes share; Orbax uses it as well. A
    # collective would do, but it needs the devices, and its texts one length.
    from jax._src import distributed

    client, turn = distributed.global_state.client, next(_turn)
    client.key_value_set(f"cxrjax/{turn}/{me}", f"={text}")
    found = [client.blocking_key_value_get(f"cxrjax/{turn}/{i}", _LONG * 1000)[1:]
             for i in range(count)]
    if turn:  # which all have read, or they would not be here
        client.key_value_delete(f"cxrjax/{turn - 1}/{me}")
    return found


def of_first(value: Any) -> Any:
    """What process 0 has for a JSON-able value, in every process."""
    return json.loads(exchange(json.dumps(value))[0])


def check_same(mine: Mapping[str, Any]) -> None:
    """Raises UserError in every process where one of them differs from process 0 in a value."""
    first, *others = [json.loads(text) for text in exchange(json.dumps(dict(mine)))]
    for number, other in enumerate(others, 1):
        different = [f"{key} is {other.get(key)!r}, in process 0 {first.get(key)!r}"
                     for key in sorted(first.keys() | other.keys())
                     if first.get(key) != other.get(key)]
        if different:
            raise UserError(f"process {number} is not of the same run: {'; '.join(different[:5])}"
                            + f"; and {len(different) - 5} more" * (len(different) > 5))


def check_shared(workdir: str | pathlib.Path) -> None:
    """Raises UserError in every process where they do not all see one workdir."""
    import jax

    if jax.process_count() == 1:
        return
    mark = pathlib.Path(workdir) / ".processes"
    token = exchange(secrets.token_hex(8))[0]
    if is_first():
        mark.write_text(token)
    exchange()
    end = time.monotonic() + _VISIBLE
    while not (seen := _holds(mark, token)) and time.monotonic() < end:
        time.sleep(0.5)
    blind = sorted({host for host in exchange("" if seen else socket.gethostname()) if host})
    if is_first():
        mark.unlink()
    if blind:
        raise UserError(f"{workdir} is another folder on {', '.join(blind)} than process 0 writes "
                        "to: give a --workdir on a disk that all machines share")


def _holds(path: pathlib.Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False


def scratch() -> pathlib.Path | None:
    """A folder for what is not to be kept, in the processes that do not write; None in the first.

    It goes when the process ends.
    """
    if is_first():
        return None
    _state["scratch"] = _state["scratch"] or tempfile.TemporaryDirectory(prefix="cxrjax-")
    return pathlib.Path(_state["scratch"].name)


def end(status: int | None, error: BaseException | None = None) -> None:
    """Ends one of several processes that has a status or an error at once; alone it does nothing.

    Those that wait for it are told by its silence: an orderly end would wait for them.
    """
    if not _state["joined"] or isinstance(error, SystemExit) or (not status and error is None):
        return
    if error is not None:
        status = 1
        if is_of_others(error) and _RAW not in os.environ:
            sys.stdout.flush()
            _end_with_line()
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status or 1)


def is_of_others(error: BaseException) -> bool:
    """Whether something failed because another process is gone: it is to be raised as it is."""
    said = str(error).lower()
    # JAX gives errors of what it computed in the background as ValueError too.
    return _state["joined"] and isinstance(error, RuntimeError | ValueError) and any(
        word in said for word in ("gloo", "nccl", "unavailable", "aborted", "closed by peer",
                                  "heartbeat", "coordination")
    )
