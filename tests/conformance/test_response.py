"""PEP 3333: start_response, write(), the iterable; and the framing that follows from them."""

import re
from email.utils import parsedate_to_datetime

import pytest

from conformance.support import drain, head, open_gate, path, recall

NOT_COMPARED = ("date", "x-request-id")


def headers_of(reply):
    return sorted((k.lower(), v) for k, v in reply.headers if k.lower() not in NOT_COMPARED)


def failed(reply):
    return reply.status == 500 and reply.complete


def test_write_then_the_iterable(conn):
    assert conn.request("/write_then_iterate").text == "one two three"
    assert conn.request("/whole").text == "block"


@pytest.mark.parametrize("target", ["write_and_wait", "yield_and_wait", "yield_and_wait?length=1"])
def test_a_block_is_sent_before_the_next_is_asked_for(server, conn, key, target):
    conn.send(head(f"GET /{target}{'&' if '?' in target else '?'}key={key} HTTP/1.1"))
    first = conn.head()
    assert first.status == 200
    conn.until(b"first")
    open_gate(server, key)
    if first.header("content-length"):
        assert conn.exactly(6) == b"second"
    else:
        conn.until(b"second\r\n0\r\n\r\n")
    assert conn.request("/whole").text == "block"


def test_http_1_0_stream_is_sent_block_by_block_and_ends_by_close(server, conn, key):
    conn.send(head(f"GET {path('yield_and_wait', key=key)} HTTP/1.0"))
    first = conn.head()
    assert first.status == 200 and not first.header("transfer-encoding") and not first.header("content-length")
    assert conn.exactly(5) == b"first"
    open_gate(server, key)
    assert drain(conn) == b"second"


@pytest.mark.parametrize("target", ["/replace", "/replace_lazily"])
def test_exc_info_before_the_headers_are_sent_replaces_them(conn, target):
    reply = conn.request(target)
    assert (reply.status, reply.reason, reply.text) == (503, "Replaced", "replaced")
    assert reply.header("x-second") == "yes" and not reply.header("x-first")
    assert reply.all("content-length") == ["8"] and len(reply.all("content-type")) == 1
    assert conn.request("/whole").text == "block"


@pytest.mark.parametrize("variant", ["", "length=1", "write=1", "length=1&write=1"])
def test_exc_info_after_the_headers_are_sent_is_raised_again_and_cuts(server, conn, key, variant):
    reply = conn.request(f"/replace_too_late?key={key}&{variant}")
    assert reply.status == 200 and not reply.complete and reply.text == "first"
    assert conn.closed()
    assert recall(server, key) == ["the same"]
    server.wait_log(f"RuntimeError: {key}")


def test_start_response_twice_is_an_error(server):
    reply = server.get("/start_twice")
    assert failed(reply) and b"never" not in reply.body


@pytest.mark.parametrize("blocks", [0, 1])
def test_start_response_never_called_is_an_error(server, blocks):
    reply = server.get(path("never_start", blocks=blocks))
    assert failed(reply) and b"never" not in reply.body


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_start_response_at_first_next(conn, blocks, method):
    reply = conn.request(path("start_at_first_next", blocks=blocks), method=method)
    assert (reply.status, reply.reason, reply.complete) == (201, "Lazy", True)
    assert reply.text == ("lazy" * blocks if method == "GET" else "")
    assert conn.request("/whole").text == "block"


def test_start_response_after_an_empty_block(conn):
    assert conn.request("/start_after_empty_block").text == "data"
    assert conn.request("/whole").text == "block"


@pytest.mark.parametrize("length", ["", "1"])
def test_empty_blocks_do_not_end_the_response(conn, length):
    reply = conn.request(path("empty_blocks", length=length))
    assert reply.complete and reply.text == "ab"
    assert conn.request("/whole").text == "block"


@pytest.mark.parametrize("body", ["str in a list", "a str", "int", "None", "str after bytes", "bytearray then int"])
def test_a_body_that_is_not_bytes_never_makes_a_complete_200(server, body):
    reply = server.get(path("not_bytes", body=body))
    assert failed(reply) or (reply.status == 200 and not reply.complete), reply
    assert b"text" not in reply.body


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_list_is_framed(conn, blocks):
    reply = conn.request(path("whole", blocks=blocks))
    assert reply.complete and reply.text == "block" * blocks
    assert reply.header("content-length") == str(5 * blocks) or reply.header("transfer-encoding") == "chunked"
    assert conn.request("/whole").text == "block"


def test_one_block_gets_a_content_length(conn):
    reply = conn.request("/whole")
    assert reply.header("content-length") == "5" and not reply.header("transfer-encoding")


@pytest.mark.parametrize("by", ["list", "generator", "write"])
@pytest.mark.parametrize("length", [0, 5, 8])
def test_a_body_longer_than_its_content_length_is_cut(conn, by, length):
    conn.send(
        head(f"GET {path('wrong_length', by=by, length=length, size=400)} HTTP/1.1") + head("GET /whole HTTP/1.1")
    )
    reply = conn.reply()
    assert reply.status == 200 and reply.body == b"HTTP/1.1 200 OK"[:length]
    try:
        following = conn.reply()
    except (EOFError, ConnectionResetError):
        assert not conn.buffer, "bytes past the length were sent"
    else:
        assert following.text == "block" and not following.header("x-smuggled")


@pytest.mark.parametrize("by", ["list", "generator", "write"])
def test_a_body_shorter_than_its_content_length_closes_the_connection(conn, by):
    conn.send(head(f"GET {path('wrong_length', by=by, length=100, size=10)} HTTP/1.1") + head("GET /whole HTTP/1.1"))
    reply = conn.reply()
    assert failed(reply) or (reply.status == 200 and not reply.complete and reply.body == b"HTTP/1.1 2"), reply
    assert conn.closed()


@pytest.mark.parametrize("line", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", ["", "a body that must not be sent"], ids=["empty", "with a body"])
@pytest.mark.parametrize("variant", ["", "&generator=1", "&length=1", "&length=1&generator=1"])
def test_no_body_follows_204_and_304(conn, line, body, variant):
    target = path("status", line=line, body=body) + variant
    conn.send(head(f"GET {target} HTTP/1.1") + head("GET /whole HTTP/1.1"))
    reply = conn.reply()
    assert f"{reply.status} {reply.reason}" == line
    assert not reply.header("transfer-encoding")
    if reply.status == 204:
        assert not reply.all("content-length")
    else:
        assert reply.header("content-length") in ((None, str(len(body))) if "length" in variant else (None,))
    assert conn.reply().text == "block", "the next answer is out of step"


@pytest.mark.parametrize(
    "target",
    [
        "/echo?say=hello",
        "/whole",
        "/generated",
        "/whole?blocks=3",
        "/start_at_first_next?blocks=2",
        "/write_then_iterate",
    ],
)
def test_head_has_the_headers_of_get_and_no_body(conn, target):
    get, again = conn.request(target), conn.request(target, method="HEAD")
    assert again.status == get.status
    framing = ("content-length", "transfer-encoding")
    assert [h for h in headers_of(again) if h[0] not in framing] == [h for h in headers_of(get) if h[0] not in framing]
    for name in framing:
        assert again.header(name) in (None, get.header(name))
    if target.startswith("/echo"):
        assert again.header("content-length") == "5"
    assert conn.request("/whole").text == "block", "the connection is out of step after HEAD"


def test_head_answered_without_a_body_does_not_claim_length_zero(conn):
    """RFC 9110, 8.6: only the Content-Length that GET would have."""
    assert conn.request("/without_body_on_head", method="HEAD").header("content-length") in (None, "6")
    assert conn.request("/whole").text == "block"


def test_pipelined_head_and_get(conn):
    conn.send(head("HEAD /generated HTTP/1.1") + head("HEAD /whole HTTP/1.1") + head("GET /whole HTTP/1.1"))
    assert conn.reply("HEAD").status == conn.reply("HEAD").status == 200
    assert conn.reply().text == "block"


@pytest.mark.parametrize("target", ["/whole", "/generated", "/status?line=404+No", "/status?line=204+No+Content"])
def test_one_valid_date(server, target):
    (date,) = server.get(target).all("date")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
    assert parsedate_to_datetime(date).year >= 2024


def test_date_and_server_of_the_application_are_kept(server):
    reply = server.get("/head?case=own+date+and+server")
    assert reply.all("date") == ["Tue, 01 Jan 2019 00:00:00 GMT"]
    assert reply.all("server") == ["mine"]
