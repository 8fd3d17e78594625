"""PEP 3333: wsgi.input."""

import hashlib
import io
import itertools
import json
import runpy
import socket

import pytest

from conformance.support import chunked, drain, drip, head, path, recall, replies
from harness import SITES, eventually

READS = runpy.run_path(str(SITES / "conformance/behaviours/reads.py"))["READS"]
TEXT = b"first line\nsecond\r\n\n\xff\xfe a third, longer line that spans chunks\nno end"
FRAMINGS = {
    "length": lambda body: ([f"Content-Length: {len(body)}"], body),
    "chunked": lambda body: (["Transfer-Encoding: chunked"], chunked(body)),
    "small chunks": lambda body: (["Transfer-Encoding: chunked"], chunked(body, 4)),
}


def post(connection, target, framing, body, pieces=0):
    """Posts a body framed so, at once or (`pieces`) that many bytes at a time."""
    headers, framed = FRAMINGS[framing](body)
    if pieces:
        connection.send(head(f"POST {target} HTTP/1.1", *headers))
        drip(connection, framed, pieces)
    else:
        connection.send(head(f"POST {target} HTTP/1.1", *headers) + framed)
    return connection.reply()


def in_step(connection):
    return connection.request("/whole").text == "block"


@pytest.mark.parametrize("pieces", [0, 11], ids=["at once", "in pieces"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("how", READS)
def test_read(conn, how, framing, pieces):
    reply = post(conn, path("read_input", how=how), framing, TEXT, pieces)
    assert reply.status == 200, reply
    assert [p.encode("latin-1") for p in json.loads(reply.body)] == READS[how](io.BytesIO(TEXT))
    assert in_step(conn)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("body", [b"abc", b"\n", b"\n\n\n"], ids=repr)
def test_read_a_short_body(conn, how, framing, body):
    reply = post(conn, path("read_input", how=how), framing, body)
    assert [p.encode("latin-1") for p in json.loads(reply.body)] == READS[how](io.BytesIO(body))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_read_of_a_million_returns_at_once_what_there_is(server, framing):
    with server.connect(timeout=2) as c:
        assert json.loads(post(c, path("read_input", how="read(10**6)"), framing, b"abc").body) == ["abc"]
        assert in_step(c)


@pytest.mark.parametrize("size", [65_536, 300_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["read()", "readlines()", "for line in input"])
@pytest.mark.parametrize("pieces", [0, 100_000], ids=["at once", "in pieces"])
def test_read_a_large_body(conn, size, framing, how, pieces):
    body = (b"%d of a large body\n" % size * (size // 10))[:size]
    reply = post(conn, path("digest", how=how), framing, body, pieces)
    assert json.loads(reply.body) == [len(body), hashlib.sha256(body).hexdigest()]
    assert in_step(conn)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_binary_body_in_chunks_of_many_sizes(conn, framing):
    body = bytes(range(256)) * 700
    headers, framed = FRAMINGS[framing](body)
    if framing == "chunked":
        cuts = [0, 1, 3, 4096, 4097, 70_000, len(body)]
        framed = b"".join(chunked(body[a:b])[:-5] for a, b in itertools.pairwise(cuts)) + b"0\r\n\r\n"
    conn.send(head("POST /digest HTTP/1.1", *headers) + framed)
    assert json.loads(conn.reply().body) == [len(body), hashlib.sha256(body).hexdigest()]
    assert in_step(conn)


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("request_", ["GET none", "POST none", "POST length 0", "POST chunked empty"])
def test_no_body_is_empty_at_once(server, how, request_):
    method, _, body = request_.partition(" ")
    headers = {
        "none": [],
        "length 0": ["Content-Length: 0"],
        "chunked empty": ["Transfer-Encoding: chunked"],
    }[body]
    with server.connect(timeout=2) as c:
        c.send(head(f"{method} {path('read_input', how=how)} HTTP/1.1", *headers))
        if body == "chunked empty":
            c.send(b"0\r\n\r\n")
        assert json.loads(c.reply().body) == [p.decode() for p in READS[how](io.BytesIO())]
        assert in_step(c)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("padding", [0, 100_000, 1_000_000])
def test_unread_body_does_not_become_the_next_request(server, key, framing, padding):
    smuggled = head(f"GET {path('hit', key=key)} HTTP/1.1")
    headers, framed = FRAMINGS[framing](smuggled + b"." * padding + smuggled)
    with server.connect() as c:
        try:
            c.send(head("POST /unread HTTP/1.1", *headers) + framed + head("GET /echo?say=after HTTP/1.1"))
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert c.reply().text == "unread"
        try:
            assert c.reply().text == "after"
        except (EOFError, ConnectionResetError):
            assert not c.buffer
    assert recall(server, key) == []


@pytest.mark.parametrize("end", ["half-close", "close"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [40, 1_000_000])
def test_body_cut_by_the_client_is_not_taken_for_complete(server, key, framing, size, end):
    body = b"x" * size
    headers, framed = FRAMINGS[framing](body)
    cut = framed[: len(framed) * 2 // 3]
    with server.connect() as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", *headers) + cut)
        if end == "half-close":
            c.socket.shutdown(socket.SHUT_WR)
            answers = replies(drain(c))
            assert [a.status for a in answers if a.status < 400] == []
    if end == "close":
        eventually(lambda: server.get("/whole").text == "block")
    seen = recall(server, key)
    assert "complete" not in seen or seen[-1] < size, seen
    if framing != "length":
        assert "complete" not in seen


@pytest.mark.parametrize(
    "cut",
    [
        b"5\r\nhello\r\n",
        b"5\r\nhello",
        b"5\r\nhel",
        b"5\r\n",
        b"5",
        b"5\r\nhello\r\n0",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n",
    ],
    ids=repr,
)
def test_chunked_body_cut_anywhere_is_not_complete(server, key, cut):
    with server.connect() as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked") + cut)
        c.socket.shutdown(socket.SHUT_WR)
        assert [a.status for a in replies(drain(c)) if a.status < 400] == []
    assert "complete" not in recall(server, key)


@pytest.mark.parametrize(
    "body",
    [
        b"4;ext=1\r\nWiki\r\n0\r\n\r\n",
        b'4;ext="quoted; string"\r\nWiki\r\n0;last\r\n\r\n',
        b"4\r\nWiki\r\n0\r\nX-Trailer: value\r\nX-Other: value\r\n\r\n",
        b"004\r\nWiki\r\n000\r\n\r\n",
    ],
    ids=repr,
)
def test_trailers_and_chunk_extensions_are_accepted(conn, body):
    conn.send(head("POST /echo HTTP/1.1", "Transfer-Encoding: chunked") + body + head("GET /whole HTTP/1.1"))
    assert conn.reply().text == "Wiki"
    assert conn.reply().text == "block"


@pytest.mark.parametrize("size", ["A", "a", "0A", "00000000000A"])
def test_chunk_size_is_hexadecimal_in_any_case(conn, size):
    conn.send(
        head("POST /echo HTTP/1.1", "Transfer-Encoding: Chunked") + size.encode() + b"\r\n0123456789\r\n0\r\n\r\n"
    )
    assert conn.reply().text == "0123456789"
    assert in_step(conn)


def test_bad_whitespace_in_a_chunk_extension_is_read_or_refused(server):
    body = b"4 ; ext = 1\r\nWiki\r\n0\r\n\r\n"
    with server.connect() as c:
        reply = c.send(head("POST /echo HTTP/1.1", "Transfer-Encoding: chunked") + body).reply()
    assert reply.status == 400 or reply.text == "Wiki"
