"""SIGHUP: the next import of the site takes over on the same sockets, and nobody notices."""

import os
import re
import threading
from signal import SIGHUP

import pytest

from behaviour.support import answer, crashes, gone, later, named, records, site, slow_site, write
from harness import Atrio, eventually

CLIENTS = 32


def reload(server):
    """Until the new import serves, or has failed."""
    server.signal(SIGHUP)
    server.hear("RELOADING=1")
    server.hear("(?m)^READY=1$")


def reloads(server, result):
    """How many have ended so."""
    return server.metric(f'atrio_reloads_total{{site="{server.sites.name}",result="{result}"}}')


class Crowd:
    """Clients with a connection each, who ask one thing after the other and forgive nothing."""

    def __init__(self, server, count=CLIENTS):
        self.server, self.over = server, threading.Event()
        self.served, self.failures, self.connections = [], [], 0
        self.clients = [threading.Thread(target=self.ask, daemon=True) for _ in range(count)]

    def ask(self):
        connection = None
        while not self.over.is_set():
            try:
                if connection is None:
                    connection, asked = self.server.connect(), 0
                    self.connections += 1
                asked += 1
                reply = connection.request()
                assert reply.status == 200 and reply.complete, reply
                self.served.append(reply.text)
                if (reply.header("connection") or "").lower() == "close":
                    connection.close()
                    connection = None
            except (AssertionError, EOFError, OSError, ValueError) as error:
                self.failures.append(f"request {asked} of a connection: {error!r}")
                connection = None

    def __enter__(self):
        for client in self.clients:
            client.start()
        eventually(lambda: len(self.served) >= CLIENTS)
        return self

    def __exit__(self, *_):
        self.over.set()
        for client in self.clients:
            client.join(30)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("preload", ["auto", "off"])
def test_reloads_under_keep_alive_connections_lose_no_request(tmp_path, preload, workers):
    with Atrio(site(tmp_path, "0"), workers=workers, preload=preload, access_log="off") as server:
        with Crowd(server) as crowd:
            for number in range(1, 6):
                site(tmp_path, str(number))
                reload(server)
                eventually(lambda number=number: crowd.served[-CLIENTS:] == [str(number)] * CLIENTS)
        assert crowd.failures == []
        assert set(crowd.served) == {"0", "1", "2", "3", "4", "5"}
        assert crowd.connections < len(crowd.served), "connections are kept alive"
        eventually(lambda: len(server.workers()) == workers)
        eventually(lambda: len(named(server, "atrio-zygote")) == 1)
        assert reloads(server, "success") == 5
        assert crashes(server) == 0
        assert not [record for record in records(server.log()) if record["level"] in ("WARN", "ERROR")]


def test_new_connections_meet_the_new_code_once_it_says_ready(tmp_path):
    with Atrio(site(tmp_path, "0")) as server:
        for number in range(1, 6):
            site(tmp_path, str(number))
            reload(server)
            assert answer(server) == number


def test_a_client_that_pauses_between_requests_is_not_cut_by_a_reload(tmp_path):
    """The old worker says when a connection ends; it may also end an idle one, but never with a request under way."""
    with Atrio(site(tmp_path, "1")) as server, server.connect() as connection:
        assert connection.request().text == "1"
        old = server.workers()
        server.signal(SIGHUP)
        connection.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow:")
        server.hear("(?m)^READY=1$")
        connection.send(b" yes\r\n\r\n")
        assert connection.reply().status == 200
        gone(*old)


def test_a_long_request_of_the_old_import_is_finished(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        waits, streams = later(server.get, "/wait/a"), later(server.get, "/stream/b")
        gates.await_request("a")
        gates.await_request("b")
        old = server.workers()
        reload(server)
        assert server.get().text == "done"
        assert set(old) < set(server.workers())
        gates.open("a")
        gates.open("b")
        assert waits.result(20).text == "done"
        assert streams.result(20).text == "first last"
        gone(*old)


def test_an_old_import_that_does_not_end_is_killed_and_the_new_one_serves_on(gates):
    with Atrio("gates", GATES=gates.folder, drain_timeout="500ms") as server:
        later(server.get, "/wait/a")
        gates.await_request("a")
        old = server.workers()
        reload(server)
        gone(*old)
        assert server.get().text == "done"
        assert crashes(server) == 0


BROKEN = {
    "raises": ("raise LookupError('no such table')", ["LookupError: no such table", "root.py", "line 1"]),
    "syntax": ("def application(:", ["SyntaxError", "root.py"]),
    "exits": ("raise SystemExit(3)", ["sys.exit()"]),
    "nothing": ("pass", ["does not declare `application`"]),
    "dies": ("import os\nos._exit(5)", ["exited with code 5"]),
}


@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_failed_reload_keeps_the_last_import_and_says_why(tmp_path, kind, preload):
    code, words = BROKEN[kind]
    with Atrio(site(tmp_path, "1"), preload=preload) as server, server.connect() as connection:
        assert connection.request().text == "1"
        old = server.children()
        write(tmp_path, code)
        reload(server)
        assert "last reload failed" in next(line for line in reversed(server.said) if line.startswith("STATUS="))
        for word in [*words, "the last import serves on"]:
            server.wait_log(re.escape(word))
        assert connection.request().text == "1"
        assert answer(server) == 1
        assert reloads(server, "failure") == 1
        assert server.metric("atrio_generation") == 1
        eventually(lambda: server.children() == old)
        site(tmp_path, "2")
        reload(server)
        eventually(lambda: answer(server) == 2)
        assert reloads(server, "success") == 1


def test_the_traceback_of_a_failed_reload_is_one_record(tmp_path):
    with Atrio(site(tmp_path)) as server:
        write(tmp_path, "def deep():\n    raise LookupError('no such table')\ndeep()\n")
        reload(server)
        server.wait_log("LookupError: no such table")
        (record,) = [record for record in records(server.log()) if "Traceback" in record["message"]]
    assert "in deep" in record["message"]
    assert record["message"].endswith("LookupError: no such table")


def test_a_reload_during_a_reload_serves_the_newest_code(tmp_path):
    folder = tmp_path / "shop"
    with Atrio(site(folder, "1")) as server:
        slow_site(folder, 2, tmp_path)
        server.signal(SIGHUP)
        eventually((tmp_path / "begun-2").exists)
        slow_site(folder, 3, tmp_path)
        for _ in range(3):
            server.signal(SIGHUP)
        eventually(lambda: server.log().count('"reloading"') >= 2)
        assert answer(server) == 1
        (tmp_path / "go").touch()
        eventually(lambda: answer(server) == 3)
        eventually(lambda: sorted(server.children().values()) == ["atrio-worker", "atrio-zygote"])
        assert reloads(server, "success") == server.metric("atrio_generation") - 1
        assert server.metric('atrio_workers{site="shop",state="ready"}') == 1


def test_a_reload_before_the_first_import_is_done_comes_after_it(tmp_path):
    folder = tmp_path / "shop"
    with Atrio(slow_site(folder, 1, tmp_path), ready=False) as server:
        eventually((tmp_path / "begun-1").exists)
        slow_site(folder, 2, tmp_path)
        server.signal(SIGHUP)
        (tmp_path / "go").touch()
        server.wait_ready()
        eventually(lambda: answer(server) == 2, 10)


def test_a_reload_sees_a_change_within_the_same_second_of_the_same_size(tmp_path):
    """Compiled files are kept by size and whole second: a script must not be taken from there."""
    with Atrio(site(tmp_path, "1"), PYTHONDONTWRITEBYTECODE=None) as server:
        written = (tmp_path / "root.py").stat().st_mtime_ns
        site(tmp_path, "2")
        os.utime(tmp_path / "root.py", ns=(written, written))
        reload(server)
        eventually(lambda: answer(server) == 2, 5)


def test_a_hang_up_of_every_process_of_a_terminal_is_one_reload(tmp_path):
    with Atrio(site(tmp_path, "1")) as server:
        old = server.children()
        site(tmp_path, "2")
        for pid in [*old, server.pid]:
            os.kill(pid, SIGHUP)
        server.hear("(?m)^READY=1$")
        eventually(lambda: answer(server) == 2)
        assert server.metric("atrio_generation") == 2
        assert crashes(server) == 0
