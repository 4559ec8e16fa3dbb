"""Processes that meet before JAX starts: who comes, who is missing, who ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cxrjax.errors import UserError
from cxrjax.training import processes
from cxrjax.training.meeting import Meeting


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


class Party:
    """Meetings of processes that are threads here."""

    def __init__(self):
        self.port, self.lost = free_port(), {}

    def come(self, process, number, wait=20):
        event = threading.Event()
        self.lost.setdefault(process, event)
        return Meeting(f"127.0.0.1:{self.port}", number, process, wait, event.set)

    def ended(self):
        return sorted(p for p, event in self.lost.items() if event.is_set())


def until(what, seconds=10):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_all_come_and_the_address_is_free_again():
    party = Party()
    meetings = [party.come(p, 3) for p in (2, 0, 1)]
    for meeting in meetings:
        meeting.wait()
    # What JAX's service does there while the connections are still held.
    with socket.create_server(("127.0.0.1", party.port)):
        pass
    for meeting in meetings:
        meeting.leave()
    assert not until(party.ended, 0.2)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_that_ends_before_all_have_left_is_missed(victim):
    party = Party()
    meetings = {p: party.come(p, 3) for p in range(3)}
    for meeting in meetings.values():
        meeting.wait()
    meetings[victim]._left = True  # its own threads are dead, too
    for connection in meetings[victim]._there.values():
        connection.shutdown(socket.SHUT_RDWR)
    # Process 0 knows of the others; its own end is what tells them.
    assert until(lambda: party.ended() == ([1, 2] if victim == 0 else [0])), party.ended()


def test_one_that_ends_while_others_are_waited_for_is_missed():
    party = Party()
    first, second = party.come(0, 3), party.come(1, 3)
    assert until(lambda: 1 in first._there and 0 in second._there)
    second._left = True
    second._there[0].shutdown(socket.SHUT_RDWR)
    assert until(lambda: party.ended() == [0])


def test_who_does_not_come_is_named():
    party = Party()
    party.come(2, 4)
    with pytest.raises(UserError, match=r"processes 1, 3 did not come within 1 s: start every one"):
        party.come(0, 4, wait=1).wait()
    with pytest.raises(UserError, match="process 0 did not answer there within 1 s .*: start it"):
        Party().come(1, 2, wait=1).wait()


def test_numbers_that_do_not_go_together_are_refused():
    party = Party()
    first = party.come(0, 3)
    party.come(1, 3)
    assert until(lambda: 1 in first._there)
    with pytest.raises(UserError, match="--num_processes=5, but process 0 was told 3"):
        party.come(4, 5).wait()
    with pytest.raises(UserError, match="--process_id=1 is taken"):
        party.come(1, 3).wait()
    with pytest.raises(UserError, match="give HOST:PORT"):
        Meeting("here:", 2, 1, 1, print)


def test_strangers_do_not_disturb():
    party = Party()
    first = party.come(0, 2)
    assert until(lambda: answers(party.port, b"GET / HTTP/1.1\r\n\r\n") == b"")
    assert answers(party.port, b"cxrjax hello 1\n") == b""
    second = party.come(1, 2)
    first.wait()
    second.wait()
    with socket.create_server(("127.0.0.1", 0)) as other:
        def greet():
            with contextlib.suppress(OSError):  # at the end
                while True:
                    with other.accept()[0] as guest:
                        guest.sendall(b"SSH-2.0\n")

        threading.Thread(target=greet, daemon=True).start()
        party.port = other.getsockname()[1]
        with pytest.raises(UserError, match="did not answer there within 1 s .something else"):
            party.come(1, 2, wait=1).wait()


def answers(port, said):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(said)
            return connection.recv(100)
    except OSError:
        return None


LOADING = "train: loading the libraries\n"


def begin(tmp_path, port, me):
    return subprocess.Popen(
        [sys.executable, "-m", "cxrjax", "--mode=train", "--config=phantom",
         f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2",
         f"--process_id={me}"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("me", [0, 1])
def test_a_command_whose_partner_dies_at_the_start_ends_with_one_line(tmp_path, me):
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port)) if me else None
    command = begin(tmp_path, port, me)
    if me:
        with listener, listener.accept()[0] as partner:
            assert partner.recv(100) == b"cxrjax hello 1 2\n"
            partner.sendall(b"cxrjax welcome\n")
    else:
        assert until(lambda: answers(port, b"cxrjax hello 1 2\n") == b"cxrjax welcome\n", 30)
    begun = time.monotonic()
    out, said = command.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    assert command.returncode == processes.LOST
    assert out == ("" if me else LOADING)
    assert said.startswith("error: another process of this run ended") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1, 8])
def test_one_that_waits_for_its_partner_can_be_stopped(tmp_path, late):
    port = free_port()
    command = begin(tmp_path, port, 0)
    assert until(lambda: answers(port, b"x\n") == b"", 30)
    time.sleep(late)
    command.send_signal(signal.SIGINT)
    out, said = command.communicate(timeout=20)
    assert (command.returncode, out, said) == (130, LOADING, "stopped by Ctrl-C\n")
