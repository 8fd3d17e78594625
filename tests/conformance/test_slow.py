"""Slow clients: they hold no app thread, and not for ever a connection. The instances have 4 threads."""

import contextlib
import threading
import time

import pytest

from conformance.support import drain, drip, head, path, recall, replies
from harness import Atrio, Connection

CLIENTS = 40


@pytest.fixture
def crowd(server):
    """Connects 40 clients."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(CLIENTS)]


def others_are_served(server):
    for _ in range(3):
        assert server.get("/whole", timeout=3).text == "block"


@pytest.mark.parametrize(
    "part", [b"", b"G", b"GET /whole HTTP/1.1\r\nHost: te", b"GET /whole HTTP/1.1\r\nHost: test\r\n"], ids=repr
)
def test_half_sent_heads_do_not_stop_others(server, crowd, part):
    for c in crowd:
        c.send(part)
    others_are_served(server)


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("size", [0, 10, 90_000])
def test_half_sent_bodies_do_not_stop_others(server, crowd, framing, size):
    for c in crowd:
        c.send(
            head("POST /echo HTTP/1.1", framing) + (b"%x\r\n" % 100_000 if "chunked" in framing else b"") + bytes(size)
        )
    others_are_served(server)
    for c in crowd[::10]:
        c.send(bytes(100_000 - size) + (b"\r\n0\r\n\r\n" if "chunked" in framing else b""))
        assert c.reply().body == bytes(100_000)


def test_idle_keep_alive_connections_do_not_stop_others(server, crowd):
    for c in crowd:
        assert c.request("/whole").text == "block"
    others_are_served(server)
    for c in crowd:
        assert c.request("/whole").text == "block"


@pytest.mark.parametrize("shape", ["block", "list", "generator"])
def test_clients_that_never_read_a_large_answer_do_not_stop_others(server, crowd, shape):
    for c in crowd:
        c.send(head(f"GET {path('large', shape=shape)} HTTP/1.1"))
    others_are_served(server)
    assert crowd[0].reply().body == bytes(4 << 20)


def test_clients_that_went_away_do_not_stop_others(server):
    for data in (b"", b"GET", head("GET /large HTTP/1.1"), head("POST /echo HTTP/1.1", "Content-Length: 10") + b"a"):
        for _ in range(CLIENTS):
            with server.connect() as c:
                c.send(data)
        others_are_served(server)


def test_four_requests_run_at_once(server, key):
    """Each of them waits until all are there."""
    answers = []

    def ask():
        answers.append(server.get(path("together", count=4, key=key), timeout=5).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["together"] * 4


@pytest.fixture(scope="module")
def hasty():
    with Atrio("conformance", threads=4, header_timeout="1s", body_timeout="1s", keepalive_timeout="1s") as atrio:
        yield atrio


def timed_out(connection, began):
    """408 or a mere close, after about the second that is set."""
    assert [reply.status for reply in replies(drain(connection))] in ([408], [])
    assert 0.7 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    "part", [b"GET / HT", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: test\r\n", b"\r\n"], ids=repr
)
def test_half_a_head_times_out(hasty, part):
    with Connection(hasty.port, 5) as c:
        timed_out(c.send(part), time.monotonic())


def test_half_a_head_is_told_408(hasty):
    with Connection(hasty.port, 5) as c:
        assert [reply.status for reply in replies(drain(c.send(b"GET / HTTP/1.1\r\nHo")))] == [408]


def dripped_until_closed(connection, byte):
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - began < 5:
            drip(connection, byte, 1, 0.1)
    return time.monotonic() - began


@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HTTP/1.1\r\nX-Slow: "], ids=repr)
def test_a_dripped_head_times_out(hasty, start):
    """Its timeout is for the whole of it, not from byte to byte."""
    with Connection(hasty.port, 5) as c:
        c.send(start)
        assert dripped_until_closed(c, b"a") < 4


def test_a_dripped_second_head_times_out(hasty):
    with Connection(hasty.port, 5) as c:
        assert c.request("/whole").text == "block"
        assert dripped_until_closed(c, b"a") < 4


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("part", [b"", b"5\r\nabc"], ids=repr)
def test_half_a_body_times_out_with_408(hasty, key, framing, part):
    with Connection(hasty.port, 5) as c:
        began = time.monotonic()
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", framing) + part)
        assert [reply.status for reply in replies(drain(c))] == [408]
        assert 0.7 < time.monotonic() - began < 4
    assert "complete" not in recall(hasty, key)


def test_half_a_body_after_100_continue_times_out(hasty, key):
    with Connection(hasty.port, 5) as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", "Content-Length: 10", "Expect: 100-continue"))
        assert c.reply(interim=True).status == 100
        c.send(b"half")
        assert [reply.status for reply in replies(drain(c))] in ([408], [500], [])
    seen = recall(hasty, key)
    assert "complete" not in seen and seen[-1].startswith("error"), seen


def test_a_dripped_body_that_goes_on_is_read(hasty):
    """Its timeout is for idleness."""
    with Connection(hasty.port, 5) as c:
        c.send(head("POST /echo HTTP/1.1", "Content-Length: 20"))
        drip(c, b"x" * 20, 2, 0.25)
        assert c.reply().text == "x" * 20


def test_an_idle_keep_alive_connection_is_closed(hasty):
    with Connection(hasty.port, 5) as c:
        assert c.request("/whole").text == "block"
        began = time.monotonic()
        assert drain(c) == b"", "an idle client has asked nothing"
        assert 0.7 < time.monotonic() - began < 4


def test_a_connection_that_sends_nothing_is_closed(hasty):
    with Connection(hasty.port, 5) as c:
        timed_out(c, time.monotonic())


def test_a_slow_application_is_not_cut_by_the_timeouts_of_the_client(hasty):
    with Connection(hasty.port, 5) as c:
        for _ in range(2):
            assert c.request(path("sleep", seconds=1.6)).text == "awake"
