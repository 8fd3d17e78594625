"""`atrio top`: the running instance in a terminal, or as text."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time

import pyte
import pytest

import harness
from behaviour.support import later, paused, site
from behaviour.test_config import free_port
from harness import Atrio, clean_environment, eventually, run

terminal = pytest.mark.binary("docker run puts a terminal of its own in between")


class Screen:
    """`atrio top` in a terminal of this size, and what is on it."""

    def __init__(self, address, columns=120, lines=40, **variables):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [harness.BINARY, "top"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=clean_environment(ATRIO_ADMIN_LISTEN=address, **({"TERM": "xterm-256color"} | variables)),
            start_new_session=True,
        )
        self.slave = slave

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            data = os.read(self.master, 65536)
            self.sent += data
            self.stream.feed(data)
        return [line.rstrip() for line in self.screen.display]

    def wait(self, pattern):
        """Waits until a line has the pattern; returns that line."""
        found = lambda: next((line for line in self.read() if re.search(pattern, line)), None)
        try:
            return eventually(found, 20)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in\n" + "\n".join(self.screen.display)) from None

    def press(self, keys):
        os.write(self.master, keys.encode())

    def row(self, text):
        """On which row a text is."""
        return next((number for number, line in enumerate(self.read()) if text in line), None)

    def is_restored(self):
        self.read()
        left = b"\x1b[?1049l" in self.sent and b"\x1b[?25h" in self.sent.rpartition(b"\x1b[?1049l")[2]
        return left and termios.tcgetattr(self.slave) == self.before

    def end(self):
        """The exit code."""
        code = eventually(
            lambda: (self.read(), self.process.poll())[1] is not None and str(self.process.returncode), 20
        )
        self.read()
        return int(code)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def once(address, *args, code=0, **given):
    result = run("top", *args, timeout=10, admin_listen=address, **given)
    assert result.returncode == code, result
    return result.stdout if code == 0 else result.stderr


@pytest.mark.parametrize("kind", ["loopback", "all", "unix"])
def test_without_a_terminal_it_is_text(tmp_path, gates, kind):
    address = {"loopback": "127.0.0.1:{port}", "all": "0.0.0.0:{port}", "unix": "unix:{folder}/admin"}[kind]
    address = address.format(port=free_port(), folder=tmp_path)
    with Atrio("gates", threads=3, workers=2, admin_listen=address, GATES=gates.folder) as server:
        asked = later(server.get, "/wait/a?secret")
        gates.await_request("a")
        text = once(address)
        assert "\x1b" not in text and "secret" not in text
        assert re.search(r"^Atrio \S+: ready, up \d+\.\d\d s, \d\d:\d\d:\d\d UTC$", text, re.MULTILINE)
        assert re.search(r"^gates: generation 1, 1 of 6 threads busy, queue 0, connections 1$", text, re.MULTILINE)
        assert re.search(r"^ +\d\.\d\d s +[01]  atrio-app-\d +GET /wait/a$", text, re.MULTILINE)
        workers = re.findall(r"^ +([01]) +(\d+)  ready ", text, re.MULTILINE)
        assert [int(number) for number, _ in workers] == [0, 1]
        assert {int(pid) for _, pid in workers} == set(server.workers()) or harness.IMAGE
        assert once(address, "--once").splitlines()[1:4] == text.splitlines()[1:4]
        gates.open("a")
        assert asked.result(20).status == 200


def test_errors_are_told_on_one_line_each(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Atrio(site(tmp_path, r"{}['\x1b[31m\n' + environ['PATH_INFO']]"), admin_listen=address) as server:
        assert server.get("/fail").status == 500
        text = eventually(lambda: "exception" in (text := once(address)) and "KeyError" in text and text)
        assert "\x1b" not in text
        assert re.search(r"^ *\d\d:\d\d:\d\d UTC  exception  KeyError: .*; GET /fail$", text, re.MULTILINE)


def test_who_cannot_be_asked_is_told():
    address = f"127.0.0.1:{free_port()}"
    told = once(address, code=69)
    assert told.startswith(f"atrio: {address} does not answer: ") and len(told.splitlines()) == 1
    assert "ATRIO_ADMIN_LISTEN" in once("off", code=69)
    assert "ATRIO_THREADS=many" in once(address, code=78, threads="many")


def test_somebody_else_is_not_taken_for_atrio():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(text):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(text)

        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for text, says in [(b"SSH-2.0-Other\r\n", "not Atrio's"), (b"HTTP/1.0 200 OK\r\n\r\n{}", "another version")]:
            answering = later(answer, text)
            assert says in once(address, code=69)
            answering.result(10)


@terminal
def test_a_terminal_shows_what_happens(gates):
    with Atrio("gates", threads=3, GATES=gates.folder) as server, Screen(f"127.0.0.1:{server.admin_port}") as screen:
        screen.wait(r"^Atrio \S+: ready, up ")
        screen.wait(r"^gates: generation 1, 0 of 3 threads busy")
        asked = [later(server.get, "/wait/b")]
        gates.await_request("b")
        screen.wait("GET /wait/b$")
        asked.append(later(server.get, "/stream/a"))
        gates.await_request("a")
        screen.wait(r"GET /stream/a \(sends\)$")
        assert screen.row("/wait/b") < screen.row("/stream/a"), "the oldest comes first"
        screen.press("ss")
        screen.wait("s sorted by path")
        eventually(lambda: screen.row("/stream/a") < screen.row("/wait/b"))
        # A rate and the part of a processor need two looks.
        screen.wait(r"^ +0 +\d+  ready .* \d+ % .* \d+$")
        for name in "ab":
            gates.open(name)
        assert [future.result(20).status for future in asked] == [200, 200]
        eventually(lambda: screen.row("/wait/b") is None)
        screen.press("q")
        assert screen.end() == 0 and screen.is_restored()


@terminal
def test_what_does_not_fit_is_scrolled_to(gates):
    with Atrio("gates", threads=20, GATES=gates.folder) as server:
        asked = [later(server.get, f"/wait/{number}") for number in range(20)]
        for number in range(20):
            gates.await_request(str(number))
        with Screen(f"127.0.0.1:{server.admin_port}", columns=60, lines=12) as screen:
            screen.wait(r"more lines$")
            assert screen.row("Atrio") == 0 and screen.row(" ready ") is None
            screen.press("\x1b[Bj")
            eventually(lambda: screen.row("gates: ") == 0)
            screen.press("k")
            eventually(lambda: screen.row("gates: ") == 1)
            screen.press(" " * 9)
            screen.wait(" ready ")
            screen.press("g")
            eventually(lambda: screen.row("Atrio") == 0)
            screen.press("\x03")
            assert screen.end() == 0 and screen.is_restored()
        for number in range(20):
            gates.open(str(number))
        assert [future.result(20).status for future in asked] == [200] * 20


@terminal
def test_an_instance_that_goes_away_is_asked_again(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Screen(address) as screen:
        screen.wait(f"^{re.escape(address)} does not answer: .* Trying again")
        with Atrio(site(tmp_path), admin_listen=address) as server:
            screen.wait(r"^Atrio \S+: ready")
            assert screen.row("does not answer") is None
            with paused(server.pid):
                screen.wait("more than 2 s")
                screen.wait(r"^Atrio \S+: ready")
            eventually(lambda: screen.row("does not answer") is None)
        screen.wait(f"^{re.escape(address)} does not answer: ")
        screen.press("\x1b")
        assert screen.end() == 0 and screen.is_restored()


@terminal
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(number):
    with Screen(f"127.0.0.1:{free_port()}") as screen:
        screen.wait("does not answer")
        assert termios.tcgetattr(screen.slave) != screen.before
        began = time.monotonic()
        screen.process.send_signal(number)
        assert screen.end() == 0 and screen.is_restored()
        assert time.monotonic() - began < 5


@terminal
def test_a_terminal_that_can_do_nothing_gets_text(tmp_path):
    with Atrio(site(tmp_path)) as server, Screen(f"127.0.0.1:{server.admin_port}", TERM="dumb") as screen:
        assert screen.end() == 0
        assert b"\x1b" not in screen.sent and b": ready, up " in screen.sent
