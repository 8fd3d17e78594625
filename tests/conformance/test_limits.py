"""What is too large is refused, what is large is not, and the settings that say so."""

import contextlib
import json
import time

import pytest

from conformance.support import chunked, drain, exchange, head, path, recall, replies
from harness import Atrio, Connection, eventually


def statuses(data):
    return [reply.status for reply in replies(data)]


def test_a_header_of_8_kb_and_90_headers_are_accepted(server):
    values = ["v" * 8192, *(f"value {n}" for n in range(89))]
    with server.connect() as c:
        c.send(head("GET /environment HTTP/1.1", *(f"X-N{n}: {v}" for n, v in enumerate(values))))
        seen = json.loads(c.reply().body)["strings"]
    assert [seen[f"HTTP_X_N{n}"] for n in range(90)] == values


def test_a_target_of_4_kb_is_accepted(server):
    for target in ("/environment/" + "a" * 4096, "/environment?" + "a" * 4096):
        seen = json.loads(server.get(target).body)["strings"]
        assert target in (seen["PATH_INFO"], f"{seen['PATH_INFO']}?{seen['QUERY_STRING']}")


def test_a_head_just_below_the_limit_is_accepted(server):
    assert server.get("/whole", [("X-Large", "v" * 60_000)]).text == "block"


@pytest.mark.parametrize("size", [70_000, 300_000])
def test_a_long_target_is_refused(server, key, size):
    assert statuses(exchange(server, head(f"GET {path('hit', key=key)}&{'a' * size} HTTP/1.1"))) in ([414], [431])
    assert recall(server, key) == []


@pytest.mark.parametrize(
    "headers",
    [
        ["X-A: " + "a" * 70_000],
        ["X-A: " + "a" * 1_000_000],
        [f"X-{n}: a" for n in range(50_000)],
        ["X" * 1_000_000 + ": a"],
    ],
    ids=["70 kB", "1 MB", "50000", "1 MB name"],
)
def test_large_headers_are_refused(server, key, headers):
    assert statuses(exchange(server, head(f"GET {path('hit', key=key)} HTTP/1.1", *headers))) == [431]
    assert recall(server, key) == []


def endless(server, start, part):
    """What the server says to a start and then 8 MB of `part`, and how much it let come before it closed."""
    sent = 0
    with Connection(server.port, 5) as c:
        c.send(start)
        try:
            while sent < 8_000_000:
                c.send(part)
                sent += len(part)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        return drain(c)


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"5;", b"a" * 10_000),
        (b"0\r\n", b"X-Trailer: " + b"a" * 10_000 + b"\r\n"),
        (b"0\r\nX-Trailer: ", b"a" * 10_000),
        (b"0" * 100, b"0" * 10_000),
    ],
    ids=["extension", "trailers", "trailer", "size"],
)
def test_endless_chunk_lines_are_refused(server, key, start, part):
    request = head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked")
    assert statuses(endless(server, request + start, part)) in ([400], [413], [431], [])
    assert "complete" not in recall(server, key)


def test_many_tiny_chunks_with_extensions_are_bounded_or_read(server):
    """A long extension on each chunk multiplies the traffic, not the memory."""
    body = b"".join(b"1;" + b"e" * 100 + b"\r\nx\r\n" for _ in range(5000)) + b"0\r\n\r\n"
    answer = exchange(server, head("POST /digest HTTP/1.1", "Transfer-Encoding: chunked", "Connection: close") + body)
    (reply,) = replies(answer)
    assert reply.status == 400 or json.loads(reply.body)[0] == 5000


@pytest.fixture(scope="module")
def small():
    with Atrio("conformance", threads=4, max_body="1KiB", max_header="4KiB") as atrio:
        yield atrio


def test_a_body_of_max_body_is_accepted(small):
    for framing, body in (
        ("Content-Length: 1024", bytes(1024)),
        ("Transfer-Encoding: chunked", chunked(bytes(1024), 100)),
    ):
        with small.connect() as c:
            assert json.loads(c.send(head("POST /digest HTTP/1.1", framing) + body).reply().body)[0] == 1024
            assert c.request("/whole").text == "block"


@pytest.mark.parametrize("length", [1025, 10**9, 10**17])
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["", "Expect"])
def test_content_length_above_max_body_is_refused_at_once(small, key, length, expect):
    with small.connect(timeout=5) as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", f"Content-Length: {length}", *expect))
        assert c.reply(interim=True).status == 413
        assert c.closed()
    assert recall(small, key) == []


@pytest.mark.parametrize("chunk", [100, 2000])
@pytest.mark.parametrize("size", [1025, 300_000])
def test_chunked_body_above_max_body_is_refused(small, key, size, chunk):
    request = head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked")
    assert statuses(exchange(small, request + chunked(bytes(size), chunk))) == [413]
    assert recall(small, key) == []


def test_chunked_body_above_max_body_after_100_continue(small, key):
    with small.connect() as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert c.reply(interim=True).status == 100
        c.send(chunked(bytes(1025)))
        assert c.reply().status in (413, 500)
        with contextlib.suppress(EOFError, OSError):
            assert c.request("/whole").text == "block"
    assert "complete" not in recall(small, key)


def test_max_header(small):
    assert small.get("/whole", [("X-A", "a" * 3000)]).text == "block"
    assert statuses(exchange(small, head("GET /whole HTTP/1.1", "X-A: " + "a" * 5000))) == [431]


class Held:
    """A request that occupies an app thread until it is let go."""

    def __init__(self, atrio, folder, key):
        self.file = folder / "until"
        self.connection = atrio.connect()
        self.connection.send(head(f"GET {path('hold', until=self.file, key=key)} HTTP/1.1"))
        assert self.connection.head().status == 200
        self.connection.until(b"held\r\n")

    def let_go(self):
        self.file.touch()
        self.connection.until(b"released\r\n0\r\n\r\n")


def test_a_full_queue_answers_503_with_retry_after(tmp_path, key):
    with Atrio("conformance", threads=1, queue=1) as atrio:
        held = Held(atrio, tmp_path, key)
        waiting = [atrio.connect() for _ in range(4)]
        for c in waiting:
            c.send(head("GET /whole HTTP/1.1"))
            c.socket.setblocking(False)

        def answered():
            return [c for c in waiting if c.buffer or readable(c)]

        refused = eventually(lambda: answered() if len(answered()) == 3 else None, 10, "three refusals")
        for c in refused:
            c.socket.settimeout(5)
            reply = c.reply()
            assert reply.status == 503 and reply.header("retry-after", "").isdigit(), reply
        held.let_go()
        (lucky,) = (c for c in waiting if c not in refused)
        lucky.socket.settimeout(5)
        assert lucky.reply().text == "block"
        assert atrio.get("/whole").text == "block"


def readable(connection):
    try:
        return connection.more()
    except BlockingIOError:
        return False


def test_a_request_that_waits_too_long_in_the_queue_gets_503_and_never_runs(tmp_path, key):
    with Atrio("conformance", threads=1, queue=10, queue_timeout="500ms") as atrio:
        held = Held(atrio, tmp_path, key)
        began = time.monotonic()
        reply = atrio.get(path("hit", key=key), timeout=10)
        assert reply.status == 503 and reply.header("retry-after", "").isdigit(), reply
        assert 0.4 < time.monotonic() - began < 5
        held.let_go()
        assert recall(atrio, key) == ["called"], "only the request that held the thread has run"


def test_max_connections(key):
    with Atrio("conformance", threads=4, max_connections=4) as atrio:
        open_ = [atrio.connect() for _ in range(4)]
        for c in open_:
            c.send(b"GET /whole HTTP/1.1\r\n")
        with pytest.raises((TimeoutError, OSError, EOFError, AssertionError)):
            assert atrio.get("/whole", timeout=1).status == 200
        for c in open_:
            c.send(b"Host: test\r\n\r\n")
            assert c.reply().text == "block"
            c.close()
        assert eventually(lambda: served(atrio), 10)


def served(atrio):
    try:
        return atrio.get("/whole", timeout=2).text == "block"
    except (OSError, EOFError):
        return False
