"""HTTP/1.x: Expect, pipelining, persistence."""

import pytest

from conformance.support import chunked, drain, head, path, recall, replies

EXPECT = "Expect: 100-continue"


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("expect", [EXPECT, "expect: 100-Continue"])
def test_expect_is_answered_when_the_application_reads(server, conn, framing, expect):
    conn.send(head("POST /echo HTTP/1.1", framing, expect))
    interim = conn.reply(interim=True)
    assert (interim.status, interim.headers) == (100, [])
    conn.send(b"hello" if "Length" in framing else chunked(b"hello"))
    reply = conn.reply(interim=True)
    assert (reply.status, reply.text) == (200, "hello")
    assert conn.request("/whole").text == "block"


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_expect_of_an_unread_body_gets_a_final_status_only(server, conn, key, framing):
    conn.send(head(f"POST {path('unread', key=key)} HTTP/1.1", framing, EXPECT))
    reply = conn.reply(interim=True)
    assert (reply.status, reply.text) == (200, "unread")
    assert reply.header("connection") == "close", "what comes next could be the body or a request"
    assert drain(conn) == b""


def test_expect_with_the_body_sent_unasked(conn):
    conn.send(head("POST /echo HTTP/1.1", "Content-Length: 5", EXPECT) + b"hello" + head("GET /whole HTTP/1.1"))
    assert conn.reply().text == "hello"
    assert conn.reply().text == "block"


def test_expect_of_an_unread_body_that_was_sent_unasked(server, key):
    """Whether the server closes or goes on, the body is not a request."""
    smuggled = head(f"GET {path('hit', key=key)} HTTP/1.1")
    with server.connect() as c:
        c.send(head("POST /unread HTTP/1.1", f"Content-Length: {len(smuggled)}", EXPECT) + smuggled)
        assert c.reply().text == "unread"
        try:
            c.send(head("GET /whole HTTP/1.1"))
            assert c.reply().text == "block"
        except (EOFError, OSError):
            assert not c.buffer
    assert recall(server, key) == []


def test_expect_on_http_1_0_gets_no_100(conn):
    conn.send(head("POST /echo HTTP/1.0", "Content-Length: 5", EXPECT) + b"hello")
    reply = conn.reply(interim=True)
    assert (reply.status, reply.text) == (200, "hello")


def test_expect_without_a_body_gets_a_final_status(conn):
    conn.send(head("GET /echo?say=yes HTTP/1.1", EXPECT))
    assert conn.reply().text == "yes"


def test_unknown_expectation(conn):
    conn.send(head("POST /echo HTTP/1.1", "Content-Length: 5", "Expect: nonsense") + b"hello")
    assert conn.reply().status in (200, 417)


def test_three_pipelined_requests_get_three_answers_in_order(conn):
    conn.send(b"".join(head(f"GET /echo?say={n} HTTP/1.1") for n in "abc"))
    assert [conn.reply().text for _ in "abc"] == ["a", "b", "c"]


def test_a_hundred_pipelined_requests_of_many_kinds(conn):
    kinds = ["/echo?say=e", "/generated", "/whole", "/write_then_iterate", "/whole?blocks=3"]
    answers = ["e", "one two three", "block", "one two three", "block" * 3]
    conn.send(b"".join(head(f"GET {target} HTTP/1.1") for target in kinds * 20))
    assert [conn.reply().text for _ in range(100)] == answers * 20


def test_pipelined_requests_cut_anywhere(server):
    data = head("POST /echo HTTP/1.1", "Content-Length: 2") + b"ab" + head("GET /echo?say=c HTTP/1.1")
    for cut in range(1, len(data)):
        with server.connect() as c:
            c.send(data[:cut])
            c.send(data[cut:])
            assert [c.reply().text, c.reply().text] == ["ab", "c"], f"cut at {cut}"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_pipelined_post_and_get(conn, framing):
    if framing == "length":
        post = head("POST /echo HTTP/1.1", "Content-Length: 5") + b"hello"
    else:
        post = head("POST /echo HTTP/1.1", "Transfer-Encoding: chunked") + chunked(b"hello", 2)
    conn.send(post + head("GET /echo?say=next HTTP/1.1") + post)
    assert [conn.reply().text for _ in range(3)] == ["hello", "next", "hello"]


@pytest.mark.parametrize(
    "target", ["/echo?say=x", "/generated", "/write_then_iterate", "/start_at_first_next", "/never_start"]
)
def test_http_1_1_keeps_the_connection(conn, target):
    for _ in range(3):
        reply = conn.request(target)
        assert reply.status in (200, 201) or (reply.status == 500 and target == "/never_start")
        if reply.status == 500 and reply.header("connection") == "close":
            break
        assert reply.header("connection") in (None, "keep-alive")


@pytest.mark.parametrize("target", ["/echo?say=x", "/generated", "/whole"])
def test_http_1_0_closes(server, target):
    (reply,) = replies(exchange_all(server, head(f"GET {target} HTTP/1.0")))
    assert reply.status == 200 and not reply.header("transfer-encoding")
    assert reply.header("connection") in (None, "close")
    assert reply.body == {"/echo?say=x": b"x", "/generated": b"one two three", "/whole": b"block"}[target]


def exchange_all(server, data):
    with server.connect() as c:
        return drain(c.send(data))


def test_http_1_0_needs_no_host(server):
    (reply,) = replies(exchange_all(server, head("GET /whole HTTP/1.0", host=None)))
    assert reply.body == b"block"


def test_http_1_0_keep_alive_with_a_length(conn):
    for _ in range(2):
        conn.send(head("GET /echo?say=x HTTP/1.0", "Connection: keep-alive"))
        reply = conn.reply()
        assert reply.text == "x" and reply.header("connection", "").lower() == "keep-alive"


def test_http_1_0_keep_alive_without_a_length_closes(conn):
    conn.send(head("GET /generated HTTP/1.0", "Connection: keep-alive"))
    reply = conn.reply()
    if reply.header("content-length") is None:
        assert reply.header("connection") in (None, "close") and drain(conn) == b""
    assert reply.text == "one two three"


@pytest.mark.parametrize("value", ["close", "Close", "foo, close", "keep-alive, close"])
@pytest.mark.parametrize("target", ["/echo?say=x", "/generated", "/status?line=204+No+Content"])
def test_connection_close_is_honoured(server, value, target):
    with server.connect() as c:
        c.send(head(f"GET {target} HTTP/1.1", f"Connection: {value}") + head("GET /whole HTTP/1.1"))
        reply = c.reply()
        assert reply.complete and reply.header("connection") == "close"
        assert drain(c) == b""


def test_an_empty_line_before_the_request_line_is_tolerated(conn):
    before = b"\r\n"
    for _ in range(2):
        conn.send(before + head("GET /whole HTTP/1.1"))
        assert conn.reply().text == "block"
    conn.send(head("POST /echo HTTP/1.1", "Content-Length: 2") + b"ab" + before + head("GET /whole HTTP/1.1"))
    assert [conn.reply().text, conn.reply().text] == ["ab", "block"]
