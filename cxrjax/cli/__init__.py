"""The command line of cxrjax: flags, then one call into the package.

The modes and their flags are the rows of `table`. Nothing heavy is imported before it is known that
the flags are right: a refused flag is answered in a tenth of a second.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import os
import platform
import signal
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging

from cxrjax import __version__, names
from cxrjax.cli import reading, shown
from cxrjax.cli.table import MODES, flags_of
from cxrjax.errors import UserError
from cxrjax.names import suggest
from cxrjax.training import processes

__all__ = ["MODES", "main", "run"]
STOPPED = 130  # the status after a Ctrl-C, as a shell says it
_HELP = ("help", "h", "helpshort", "helpfull")  # absl's names for it, all one here


def main(argv: Sequence[str]) -> int:
    """Does what a command line says; the exit status. A user's mistake is one line on stderr, few
    where the error is made of them."""
    status = _told(argv)
    processes.end(status)
    return status


def _told(argv: Sequence[str]) -> int:
    try:
        return _do(list(argv)) or 0
    except UserError as error:
        return _fail(error)
    except OSError as error:  # folders without permission, full disks, links to nowhere
        if not error.filename or os.environ.get("CXRJAX_TRACEBACK"):
            raise
        return _fail(UserError(f"{error.filename}: {error.strerror}"))
    except KeyboardInterrupt:
        # Threads may have work left to finish before the process ends: the next one ends it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("\n" * sys.stderr.isatty() + "stopped by Ctrl-C", file=sys.stderr)
        return STOPPED


def _fail(error: UserError) -> int:
    if os.environ.get("CXRJAX_TRACEBACK"):
        raise error
    message = str(error) if getattr(error, "keep_lines", False) else " ".join(str(error).split())
    print(f"error: {message}", file=sys.stderr)
    return 2


def _do(argv: list[str]) -> int | None:
    first = flags.FlagValues()
    first.set_gnu_getopt()
    flags.DEFINE_string("mode", None, "", first)
    for name in ("version", *_HELP):
        flags.DEFINE_bool(name, False, "", first)
    rest = reading.parsed(first, argv, known_only=True)
    mode = first.mode
    if mode is not None and mode not in MODES:
        raise UserError(f"unknown mode {mode!r}" + suggest(mode, MODES))
    if first.version:
        print(f"cxrjax {__version__}")
        return 0
    program = names.program(argv[0])
    if len(argv) == 1 or any(first[name].value for name in _HELP):
        parts = [shown.overview(program) if mode is None else shown.of_mode(mode, program)]
        if "config" in flags_of(mode or ""):
            given = [word.partition("=")[2] for word in rest if word.startswith("--config=")]
            parts += [shown.of_config(text) for text in given]
        print("\n\n".join(parts))
        return 0
    arguments = reading.parse(mode, rest, lambda given: _begin(mode, given))
    verbosity = arguments.pop("verbosity")
    flags.FLAGS(argv[:1])  # what libraries look for there: grain's processes, absl's logging
    logging.use_absl_handler()
    # The libraries' INFO lines drown ours.
    logging.set_verbosity(logging.WARNING if verbosity is None else verbosity)
    processes.come(*(arguments.get(k) for k in ("coordinator", "num_processes", "process_id")))
    module, _, name = MODES[mode].function.partition(":")
    with names.trusting(arguments.pop("trust", None)):
        return getattr(importlib.import_module(module), name)(**arguments)


def _begin(mode: str, given: Mapping[str, Any]) -> None:
    """The first sign of life: what follows imports JAX, which takes seconds on a slow machine."""
    if not given.get("process_id"):
        print(f"{mode}: loading the libraries", flush=True)


def take_huge_pages() -> None:
    """Begins again, once, with arrays on huge pages (glibc on Linux; elsewhere nothing changes).

    A training step on the CPU takes its memory anew each time, and with pages of 4 KB a tenth of
    the step went into page faults. glibc reads this setting only as a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_compiled_programs() -> None:
    """Compiled programs go to a folder: the second run of a config starts sooner.

    JAX reads this setting as it is imported, and a config file imports it while flags are parsed.
    Each kind of processor has a folder of its own: homes are shared between machines, and a program
    for one may use instructions that another lacks.
    """
    try:
        with open("/proc/cpuinfo") as file:
            kind = {line for line in file if line.startswith(("model name", "flags", "Features"))}
    except OSError:
        kind = {platform.platform()}
    folder = f"~/.cache/cxrjax/compiled-{zlib.crc32(''.join(sorted(kind)).encode()):08x}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser(folder))


def raise_where_it_is_heard(_: int, frame: Any) -> None:
    """The handler of SIGINT: KeyboardInterrupt, but a moment later where Python would swallow it.

    That is in `__del__` and in what is called around a garbage collection (JAX has such a
    function): the exception is printed there as ignored, and the program goes on.
    """
    deaf = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in deaf or frame.f_code.co_name == "__del__":
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def run() -> None:
    """The console command `cxrjax`, `python -m cxrjax` and `python launch.py`."""
    take_huge_pages()
    keep_compiled_programs()
    faulthandler.enable()
    signal.signal(signal.SIGINT, raise_where_it_is_heard)
    signal.signal(signal.SIGALRM, raise_where_it_is_heard)
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    processes.quiet_libraries(sys.argv)
    try:
        status = main(sys.argv)
    except BaseException as error:
        processes.end(None, error)
        raise
    leave(status)


def leave(status: int) -> None:
    """Ends the process. Work that is done is not called stopped by a Ctrl-C that comes now."""
    if status != STOPPED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(status)
    # XLA's threads may still compute, and crash where Python is taken down around them.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(status)
