"""Processes meet before JAX starts, and from then on one that dies is missed at once.

JAX's own service begins when each process has imported and read what it needs, waits minutes for
one that is dead by then, and half a minute for a heartbeat later. Here every process holds a
connection to process 0, at the address where that service will be, from the moment at which its
command is understood to its end. A connection that breaks without a word is a process that died.

What is said there is one line each, in this order: HELLO with its number and their count by one who
comes, WELCOME (or NO and why) by process 0, GO when all have come, BYE by either at an orderly end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from cxrjax.errors import UserError

_HELLO, _WELCOME, _NO, _GO, _BYE = (f"cxrjax {word}".encode() for word in
                                    ("hello", "welcome", "no", "go", "bye"))
_LONGEST = 200  # bytes of a line
_ANSWER = 5  # seconds in which whoever comes must have said so, and is answered
# Seconds without traffic, between questions, and questions without an answer: 30 s in all.
_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Meeting:
    """What one process holds; the work is done in threads, beside whatever the process does.

    Args:
      coordinator: HOST:PORT of process 0.
      number: of processes.
      process: which of them this is.
      wait: seconds in which all must have come.
      lost: called, in a thread, when another one died.

    Raises:
      UserError: no such address.
    """

    def __init__(
        self, coordinator: str, number: int, process: int, wait: int | float,
        lost: Callable[[], None],
    ):
        host, _, port = coordinator.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise UserError(f"--coordinator={coordinator}: give HOST:PORT")
        self._name, self._host, self._port = coordinator, host.strip("[]"), int(port)
        self._number, self._me, self._lost = number, process, lost
        self._seconds, self._until = wait, time.monotonic() + wait
        self._there: dict[int, socket.socket] = {}  # connections by process
        self._settled, self._fault = threading.Event(), ""
        self._left = False
        threading.Thread(target=self._visit if process else self._receive, daemon=True).start()

    def wait(self) -> None:
        """Until all have come.

        Raises:
          UserError: they did not, or the address cannot be.
        """
        while not self._settled.wait(0.5):  # Ctrl-C is heard in between
            if time.monotonic() > self._until + 30:
                self._settle(f"process 0 says no more within {self._seconds:g} s")
        if self._fault:
            raise UserError(f"--coordinator={self._name}: {self._fault}")

    def leave(self) -> None:
        """Goes in good order: the others need not."""
        self._left = True
        for connection in list(self._there.values()):
            with contextlib.suppress(OSError):
                connection.sendall(_BYE + b"\n")
                connection.shutdown(socket.SHUT_WR)

    def _settle(self, fault: str = "") -> None:
        self._fault = fault
        self._settled.set()

    # --- process 0

    def _receive(self) -> None:
        try:
            socket.getaddrinfo(self._host, self._port)
            listener = _listen(self._port)
        except socket.gaierror as error:
            return self._settle(_unknown(error))
        except OSError as error:
            return self._settle(f"process 0 cannot listen there ({error.strerror}): is the port in "
                                "use?")
        with listener:
            while len(self._there) < self._number - 1:
                listener.settimeout(max(0.01, self._until - time.monotonic()))
                try:
                    self._admit(listener.accept()[0])
                except TimeoutError:
                    missing = sorted({*range(1, self._number)} - self._there.keys())
                    return self._settle(
                        f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing[:10]))}"
                        f"{', ...' * (len(missing) > 10)} did not come within {self._seconds:g} s: "
                        "start every one of them, with its own --process_id, where this machine "
                        "and port can be reached")
        # JAX's service will listen in this place: nobody may come to the old one after GO.
        for connection in self._there.values():
            with contextlib.suppress(OSError):  # its own thread tells
                connection.sendall(_GO + b"\n")
        self._settle()
        return None

    def _admit(self, connection: socket.socket) -> None:
        """Hears who comes; what is no process of this run goes again."""
        connection.settimeout(_ANSWER)
        lines = connection.makefile("rb")
        try:
            words, why = lines.readline(_LONGEST).split(), ""
            if words[:2] != _HELLO.split() or len(words) != 4 or not words[2].isdigit():
                raise ConnectionError("a stranger")
            process, number = int(words[2]), int(words[3])
            if number != self._number:
                why = f"--num_processes={number}, but process 0 was told {self._number}"
            elif process in self._there or not 0 < process < number:
                why = f"--process_id={process} is taken: every process has a number of its own"
            connection.sendall(b"%s\n" % (_NO + b" " + why.encode() if why else _WELCOME))
            if why:
                raise ConnectionError(why)
        except (OSError, ValueError):
            lines.close()  # it holds the connection as well
            connection.close()
            return
        self._there[process] = connection
        threading.Thread(target=self._watch, args=(connection, lines), daemon=True).start()

    # --- the others

    def _visit(self) -> None:
        why = ""
        while time.monotonic() < self._until:
            soon = max(0.1, min(_ANSWER, self._until - time.monotonic()))
            try:
                connection = socket.create_connection((self._host, self._port), timeout=soon)
                connection.sendall(b"%s %d %d\n" % (_HELLO, self._me, self._number))
                lines = connection.makefile("rb")
                answer = lines.readline(_LONGEST).strip()
                if answer.startswith(_NO):
                    return self._settle(answer.removeprefix(_NO).decode(errors="replace").strip())
                if answer == _WELCOME:
                    self._there[0] = connection
                    return self._watch(connection, lines)
                why = "something else answers"
                lines.close()
                connection.close()
            except socket.gaierror as error:
                return self._settle(_unknown(error))
            except OSError as error:
                why = error.strerror or str(error)
            time.sleep(0.2)
        return self._settle(f"process 0 did not answer there within {self._seconds:g} s ({why}): "
                            "start it, and see that the port can be reached")

    def _watch(self, connection: socket.socket, lines: BinaryIO) -> None:
        """Listens to one that has come until it says BYE, or nothing any more."""
        said = b""
        with contextlib.suppress(OSError), connection, lines:
            connection.settimeout(None)
            _keep_alive(connection)
            while (said := lines.readline(_LONGEST).strip()) == _GO:
                self._settle()
        if said != _BYE and not self._left:
            self._lost()


def _unknown(error: socket.gaierror) -> str:
    return f"no machine of that name is known here ({error.strerror})"


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _keep_alive(connection: socket.socket) -> None:
    """A machine that went without a word is known after half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
