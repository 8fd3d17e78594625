"""Large request bodies: those of quick clients reach the site while they come, and at its pace. The instances have 4 threads."""

import contextlib
import hashlib
import json
import threading
import time

import pytest

from conformance.support import drain, head, open_gate, path, recall, replies
from harness import Atrio, Connection, eventually

SIZE = 3_000_000
BODY = (b"%d of a large body\n" % SIZE * (SIZE // 10))[:SIZE]
DIGEST = [SIZE, hashlib.sha256(BODY).hexdigest()]
ENOUGH = 400_000
"""Of such a body, before the site may begin."""
TIMEOUTS = 'atrio_requests_rejected_total{reason="body_timeout"}'
HOW = ["read()", "read(10**6)", "readlines()", "for line in input", "read(7) until empty"]


def asks(target, size=SIZE, *headers):
    return head(f"POST {target} HTTP/1.1", f"Content-Length: {size}", *headers)


@pytest.fixture(scope="module")
def hasty():
    with Atrio("conformance", threads=4, body_timeout="1s") as atrio:
        yield atrio


@pytest.mark.parametrize("how", HOW)
def test_a_site_reads_while_the_client_sends(server, conn, key, how):
    conn.send(asks(path("digest_in_steps", key=key, how=how)) + BODY[:ENOUGH])
    eventually(lambda: recall(server, key) == ["begun"])
    open_gate(server, key)
    conn.send(BODY[ENOUGH : 2 * ENOUGH])
    server.get("/whole")
    conn.send(BODY[2 * ENOUGH :])
    expected = DIGEST if how != "read(10**6)" else [10**6 + 10, hashlib.sha256(BODY[: 10**6 + 10]).hexdigest()]
    assert json.loads(conn.reply().body) == expected
    assert conn.request("/whole").text == "block"


def test_expect_streams_too(server, conn, key):
    conn.send(asks(path("digest_in_steps", key=key), SIZE, "Expect: 100-continue"))
    assert conn.reply(interim=True).status == 100
    conn.send(BODY[:ENOUGH])
    eventually(lambda: recall(server, key) == ["begun"])
    open_gate(server, key)
    conn.send(BODY[ENOUGH:])
    assert json.loads(conn.reply().body) == DIGEST
    assert conn.request("/whole").text == "block"


def test_a_client_waits_for_a_site_that_reads_slowly(server, key):
    """No more than buffers hold is taken from it."""
    size, sent = 80_000_000, 0
    with server.connect(timeout=1) as c:
        c.send(asks(path("digest_in_steps", key=key), size))
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += c.socket.send(bytes(100_000))
        assert ENOUGH < sent < size // 2
        open_gate(server, key)
        c.socket.settimeout(20)
        c.send(bytes(size - sent))
        assert json.loads(c.reply().body)[0] == size


def test_the_pause_of_a_site_is_not_the_client_s(hasty, key):
    with Connection(hasty.port) as c:
        sending = threading.Thread(target=lambda: c.send(asks(path("digest_in_steps", key=key)) + BODY))
        sending.start()
        eventually(lambda: recall(hasty, key) == ["begun"])
        time.sleep(2)  # twice what a client may take
        open_gate(hasty, key)
        assert json.loads(c.reply().body) == DIGEST
        sending.join()


def test_a_client_that_stops_in_the_middle_gets_408(hasty, key):
    before = hasty.metric(TIMEOUTS) or 0
    with Connection(hasty.port, 5) as c:
        c.send(asks(path("hit", key=key)) + BODY[:ENOUGH])
        assert [reply.status for reply in replies(drain(c))] == [408]
    assert recall(hasty, key) == ["called", "error ConnectionError"]
    assert hasty.metric(TIMEOUTS) == before + 1


def test_what_a_client_breaks_off_is_no_failure_of_the_site(hasty, key):
    failures = hasty.metric("atrio_exceptions_total")
    with Connection(hasty.port, 5) as c:
        c.send(asks(path("hit", key=key)) + BODY[:ENOUGH])
        eventually(lambda: recall(hasty, key) == ["called"])
    eventually(lambda: recall(hasty, key) == ["called", "error ConnectionError"])
    assert hasty.metric("atrio_exceptions_total") == failures
    assert key not in hasty.log()


def test_half_sent_large_bodies_do_not_stop_others(server):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(server.connect()) for _ in range(40)]
        for c in crowd:
            c.send(asks("/digest") + BODY[:ENOUGH])
        for _ in range(3):
            assert server.get("/whole", timeout=3).text == "block"
        for c in crowd[::10]:
            c.send(BODY[ENOUGH:])
            assert json.loads(c.reply().body) == DIGEST


def test_a_slow_client_s_body_waits_for_its_end(server, conn, key):
    conn.send(asks(path("digest_in_steps", key=key)) + BODY[:100_000])
    server.get(path("sleep", seconds=0.5))
    conn.send(BODY[100_000:ENOUGH])
    for _ in range(3):
        server.get("/whole")
    assert recall(server, key) == []
    conn.send(BODY[ENOUGH:])
    eventually(lambda: recall(server, key) == ["begun"])
    open_gate(server, key)
    assert json.loads(conn.reply().body) == DIGEST


def test_an_unread_large_body_leaves_the_connection_in_step(conn):
    for _ in range(3):
        conn.send(asks("/unread") + BODY)
        assert conn.reply().text == "unread"
    assert conn.request("/whole").text == "block"


def test_who_has_been_answered_takes_no_place_from_others(server, key):
    """Half a body each, which the site does not want."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            c = stack.enter_context(server.connect())
            c.send(asks("/unread") + BODY[:ENOUGH])
            assert c.reply().text == "unread"
        with server.connect() as c:
            c.send(asks(path("digest_in_steps", key=key)) + BODY[:ENOUGH])
            eventually(lambda: recall(server, key) == ["begun"])
            open_gate(server, key)
            c.send(BODY[ENOUGH:])
            assert json.loads(c.reply().body) == DIGEST


def test_more_large_bodies_than_places(server):
    answers = []

    def upload():
        with server.connect() as c:
            for _ in range(3):
                c.send(asks(path("digest", how="read()")) + BODY)
                answers.append(json.loads(c.reply().body))

    threads = [threading.Thread(target=upload) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [DIGEST] * 48


def test_a_single_app_thread_is_at_no_client_s_mercy(key):
    with Atrio("conformance", threads=1) as server, server.connect() as c:
        c.send(asks("/digest") + BODY[:ENOUGH])
        assert server.get("/whole", timeout=3).text == "block"
        c.send(BODY[ENOUGH:])
        assert json.loads(c.reply().body) == DIGEST
