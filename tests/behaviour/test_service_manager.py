"""What a service manager hears on NOTIFY_SOCKET besides READY: signs of life, patience that is asked for, the state in words."""

import os
import re
import socket
import sys
import time
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from behaviour.support import later, named, paused, site, slow_site, started_by
from harness import Atrio, eventually

WATCHDOG = {"WATCHDOG_USEC": 1_000_000}
"""Signs of life come every half of it."""


def status(server):
    """The last state that was heard."""
    return next(line for line in reversed(server.said) if line.startswith("STATUS=")).removeprefix("STATUS=")


def heard(server, seconds):
    """What is said within some seconds."""
    before, end = len(server.said), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            server.hear("(?!)", left)
        except AssertionError:
            pass
    return server.said[before:]


def test_signs_of_life_come_twice_within_the_watchdogs_patience():
    with Atrio("processes", **WATCHDOG) as server:
        server.hear("WATCHDOG=1")
        began = time.monotonic()
        for _ in range(6):
            server.hear("WATCHDOG=1")
        assert 2 < time.monotonic() - began < 6


@pytest.mark.parametrize(
    "given", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {**WATCHDOG, "WATCHDOG_PID": 1}, {}]
)
def test_none_come_where_no_watchdog_waits_for_them(given):
    with Atrio("processes", **given) as server:
        assert heard(server, 2) == []


def test_the_watchdog_is_not_fed_while_a_thread_keeps_the_gil(gates):
    with Atrio("gates", workers=2, GATES=gates.folder, **WATCHDOG) as server:
        stuck = later(server.get, "/stick/a")
        gates.await_request("a")
        server.hear("WATCHDOG=1")
        server.wait_log("watchdog is not fed")
        heard(server, 0.1)
        assert "WATCHDOG=1" not in heard(server, 1)
        assert stuck.result(20).status == 200
        server.hear("WATCHDOG=1")
        server.wait_log("watchdog is fed")


def test_a_process_that_is_stopped_is_not_alive_either():
    with Atrio("processes", workers=2, **WATCHDOG) as server:
        server.hear("WATCHDOG=1")
        with paused(server.workers()[0]):
            server.wait_log("watchdog is not fed")
            assert server.admin("/livez").status == 503
        server.hear("WATCHDOG=1")


def test_the_watchdog_is_fed_until_the_end_of_the_drain(gates):
    with Atrio("gates", GATES=gates.folder, **WATCHDOG) as server:
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        server.signal(SIGTERM)
        server.hear("STOPPING=1")
        for _ in range(4):
            server.hear("WATCHDOG=1")
        gates.open("a")
        assert waits.result(20).status == 200
        assert server.wait(10) == 0


def test_a_long_import_asks_for_patience_as_a_start_and_as_a_reload(tmp_path):
    folder = tmp_path / "shop"
    with Atrio(slow_site(folder, 1, tmp_path), ready=False) as server:
        server.hear("EXTEND_TIMEOUT_USEC=30000000", 20)
        assert status(server) == "importing shop"
        (tmp_path / "go").touch()
        server.wait_ready()
        (tmp_path / "go").unlink()
        slow_site(folder, 2, tmp_path)
        server.signal(SIGHUP)
        server.hear("RELOADING=1")
        assert status(server).endswith(": 1 worker; reloading")
        server.hear("EXTEND_TIMEOUT_USEC=30000000", 20)
        (tmp_path / "go").touch()
        server.hear("(?m)^READY=1$")
        assert not [line for line in heard(server, 6) if line.startswith("EXTEND")], "it is over"


def test_the_drain_asks_for_as_long_as_it_may_take():
    with Atrio("processes", drain_delay="1s", drain_timeout="2h") as server:
        server.signal(SIGTERM)
        asked = int(server.hear(r"(?s)STOPPING=1.*EXTEND_TIMEOUT_USEC=(\d+)")[1]) / 1e6
        assert 7201 < asked < 7260
        assert server.wait(10) == 0


def test_the_state_follows_the_workers_and_is_not_told_twice():
    with Atrio("processes", workers=2) as server:
        serving = f"serving processes on 127.0.0.1:{server.port}: 2 workers"
        assert status(server) == serving
        for _ in range(5):
            (victim, *_) = server.workers()
            os.kill(victim, SIGKILL)
            eventually(lambda victim=victim: victim not in server.workers() and len(server.workers()) == 2)
        told = [line for line in heard(server, 5) if line.startswith("STATUS=")]
        assert len(told) <= 4, "not every change is worth a word"
        assert status(server) == serving
        assert heard(server, 3) == [], "nothing has changed"


def test_the_state_tells_how_many_threads_are_busy_when_the_watchdog_wakes_the_supervisor(gates):
    with Atrio("gates", threads=3, GATES=gates.folder, **WATCHDOG) as server:
        waits = [later(server.get, f"/wait/{name}") for name in "ab"]
        for name in "ab":
            gates.await_request(name)
        server.hear("STATUS=.*: 1 worker, 2 of 3 threads busy")
        for name in "ab":
            gates.open(name)
        assert [waiting.result(20).status for waiting in waits] == [200, 200]
        server.hear("STATUS=.*: 1 worker, 0 of 3 threads busy")


def test_the_state_tells_of_old_workers_and_of_the_drain(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        server.signal(SIGHUP)
        server.hear("STATUS=.*: 1 worker; 1 worker of before ends")
        server.signal(SIGTERM)
        server.hear("STOPPING=1")
        assert re.fullmatch("draining: 1 request under way in [12] workers?", status(server))
        gates.open("a")
        assert waits.result(20).status == 200
        assert server.wait(10) == 0


def test_the_reason_of_a_failed_start_is_its_last_state(tmp_path):
    with Atrio(site(tmp_path, top="raise LookupError('no such table')"), ready=False) as server:
        server.hear("STATUS=.*LookupError: no such table")
        assert server.wait(10) == 78


@pytest.mark.binary("a container's first process has been started by nobody that it knows")
def test_a_service_manager_that_started_a_script_learns_the_process_id(tmp_path):
    given = "#!/bin/sh\nexport SYSTEMD_EXEC_PID=$$\n"
    child = "BINARY \"$@\" & trap 'kill $!' TERM; wait; wait\n"
    with started_by(tmp_path, given + child), Atrio("processes", ready=False) as server:
        main = int(server.hear(r"(?s)MAINPID=(\d+)\n.*READY=1")[1])
        assert main in named(server, "atrio") and main != server.process.pid
    with started_by(tmp_path, given + 'exec BINARY "$@"\n'), Atrio("processes") as server:
        assert not [line for line in server.said if line.startswith("MAINPID")]


ACTIVATES = """#!{python}
import os, socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, each in enumerate(held):
    os.dup2(os.dup(each.fileno()), 10 + number)
for number in range(2):
    os.dup2(10 + number, 3 + number)
open({ports!r}, "w").write(" ".join(str(each.getsockname()[1]) for each in held))
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin"}}
os.execv("BINARY", ["BINARY", *sys.argv[1:]])
"""


@pytest.mark.binary("the sockets of this machine are not a container's")
@pytest.mark.parametrize("listen", [None, "fd:web"])
def test_sockets_are_told_apart_by_their_names(tmp_path, listen):
    script = ACTIVATES.format(python=sys.executable, ports=str(tmp_path / "ports"))
    with started_by(tmp_path, script), Atrio("processes", listen=listen, admin_listen="fd:admin") as server:
        assert f"{server.port} {server.admin_port}" == (tmp_path / "ports").read_text()
        assert server.get().status == server.admin("/readyz").status == 200


def test_a_service_manager_that_does_not_listen_holds_nothing_up():
    """Its socket is full: what matters waits for a second, and the rest not at all."""
    with Atrio("processes", **WATCHDOG) as server:
        eventually(lambda: full(server), what="a socket that takes no more")
        began = time.monotonic()
        for _ in range(3):
            assert server.admin("/livez").status == 200
        assert time.monotonic() - began < 3
        server.signal(SIGTERM)
        assert server.wait(10) == 0


def full(server):
    """Nobody reads: the kernel keeps some messages, and then the next one would wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
        another.setblocking(False)
        try:
            another.sendto(b"X=1", str(server.folder / "notify"))
        except BlockingIOError:
            return True
    return False
