"""Requests that must be refused: one 4xx or 5xx, the connection closed, and nothing of it seen by the application.

Every request here asks for /hit, which notes that it was called. Where the framing is in doubt a second
request to /hit follows in what one reading takes for the body: it must never be answered.
"""

import pytest

from conformance.support import chunked, exchange, head, path, recall, replies

FINE = "Host: test"


def hit(key, *headers, line=None, body=b"", host=FINE):
    """A request to /hit, and a second one in its wake."""
    second = head(f"GET {path('hit', key=key)} HTTP/1.1", "X-Second: yes")
    return head(line or f"POST {path('hit', key=key)} HTTP/1.1", *headers, host=host) + body + second


def refused(server, key, data, statuses=(400,)):
    answers = replies(exchange(server, data))
    assert len(answers) == 1, answers
    assert answers[0].status in statuses, answers
    assert "called" not in recall(server, key)


@pytest.mark.parametrize(
    "data",
    [head("GET / HTTP/1.1", host=None), head("GET /../ HTTP/1.1"), b"\xff\r\n\r\n"],
    ids=["no Host", "dots", "garbage"],
)
def test_refusals_carry_a_date_and_say_that_they_close(server, data):
    """RFC 9110, 6.6.1; RFC 9112, 9.6."""
    (reply,) = replies(exchange(server, data))
    assert reply.status == 400 and reply.header("date") and reply.header("connection") == "close"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 0", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 400"),
        ("Transfer-Encoding: chunked", "Content-Length: x"),
    ],
    ids=", ".join,
)
def test_length_and_chunked_together(server, key, headers):
    """RFC 9112, 6.3: an error, or Transfer-Encoding wins and the connection closes."""
    answers = replies(exchange(server, hit(key, *headers, body=b"0\r\n\r\n")))
    assert len(answers) == 1, answers
    assert answers[0].status in (200, 400), answers
    assert recall(server, key) in ([], ["called", "complete", 0])


@pytest.mark.parametrize(
    "value",
    [
        "3, 4",
        "+3",
        "-1",
        "0x3",
        "3x",
        "3 3",
        "3_0",
        "1e1",
        " ",
        "\xb3",
        "\xc2\xb3",
        "3,",
        ",3",
        "3;",
        '"3"',
        "3.0",
        "-0",
        "\0003",
    ],
)
def test_content_length_that_is_no_number(server, key, value):
    refused(server, key, hit(key, f"Content-Length: {value}", body=b"abc"))


@pytest.mark.parametrize(
    "value", ["99999999999999999999999", "18446744073709551616", "18446744073709551619", "9223372036854775808"]
)
def test_content_length_beyond_all_bounds(server, key, value):
    refused(server, key, hit(key, f"Content-Length: {value}", body=b"abc"), (400, 413))


@pytest.mark.parametrize("values", ["3 4", "4 3", "3 x", "0 3", "3 03"])
def test_two_different_content_lengths(server, key, values):
    refused(server, key, hit(key, *(f"Content-Length: {v}" for v in values.split()), body=b"abc"))


@pytest.mark.parametrize("headers", [["Content-Length: 3"] * 2, ["Content-Length: 3, 3"]], ids=", ".join)
def test_the_same_content_length_twice_is_refused_or_one(server, key, headers):
    data = head(f"POST {path('hit', key=key)} HTTP/1.1", "Connection: close", *headers) + b"abc"
    (reply,) = replies(exchange(server, data))
    assert recall(server, key) == {400: [], 200: ["called", "complete", 3]}[reply.status]


@pytest.mark.parametrize(
    "value",
    [
        "xchunked", "identity", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, chunked", "\x0bchunked",
        "chunked\x0b", '"chunked"', "chunked;q=1", "chunke", "chunkedd", "", "chunked,", ",chunked", "gzip", "chunked chunked",
        "\x0cchunked", "chunked\x00", "\xa0chunked", "ch\xfcnked",
    ],
    ids=repr,
)  # fmt: skip
def test_transfer_encoding_other_than_chunked(server, key, value):
    refused(server, key, hit(key, f"Transfer-Encoding: {value}", body=b"0\r\n\r\n"), (400, 501))


@pytest.mark.parametrize(
    "values", [("chunked", "identity"), ("identity", "chunked"), ("chunked", "chunked"), ("chunked", "")], ids=repr
)
def test_two_transfer_encoding_lines(server, key, values):
    refused(server, key, hit(key, *(f"Transfer-Encoding: {v}" for v in values), body=b"0\r\n\r\n"), (400, 501))


def test_transfer_encoding_on_http_1_0(server, key):
    """RFC 9112, 6.1: the framing is faulty; at least the connection closes."""
    line = f"POST {path('hit', key=key)} HTTP/1.0"
    data = hit(key, "Transfer-Encoding: chunked", "Connection: keep-alive", line=line, body=b"0\r\n\r\n")
    (reply,) = replies(exchange(server, data))
    assert reply.status in (200, 400, 501) and recall(server, key).count("called") <= 1


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length : 3", b"Transfer-Encoding : chunked", b"Content-Length\t: 3", b"X-A : b", b"X A: b", b"No colon",
        b": empty name", b"X\x01A: b", b"X\x7fA: b", b"X\x00A: b", b"X\xe9A: b", b"X(A): b", b'X"A": b', b"X/A: b", b"X@A: b",
        b"X-A: a\x00b", b"X-A: \x00", b"X-A: a\rb", b"X-A: a\r", b"X-A: a\rX-B: b", b"\rX-A: b", b"X-A: a\x01b", b"X-A: a\x7fb",
        b"X-A: a\x1bb", b"X-A: a\x0bb", b"X-A: a\x0cb",
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("place", ["before Host", "after Host"])
def test_header_line_that_is_none(server, key, line, place):
    lines = [line, FINE] if place == "before Host" else [FINE, line]
    refused(server, key, hit(key, *lines, host=None, body=b"abc"))


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b" \r\n  "], ids=repr)
def test_folded_line_is_refused_or_unfolded(server, fold):
    data = head("GET /environment HTTP/1.1", "Connection: close", b"X-A: a" + fold + b"b")
    (reply,) = replies(exchange(server, data))
    assert reply.status == 400 or (reply.status == 200 and '"HTTP_X_A": "a b"' in " ".join(reply.text.split()))


@pytest.mark.parametrize("fold", [b" X-A: b", b"\tX-A: b", b" ", b" Host: evil", b" Content-Length: 3"], ids=repr)
def test_folded_line_before_the_first_header(server, key, fold):
    refused(server, key, hit(key, fold, FINE, host=None, body=b"abc"))


def bare(data, *places):
    """`data` with the line ends of these numbers as bare LF."""
    lines = data.split(b"\r\n")
    return b"".join(line + (b"\n" if i in places else b"\r\n") for i, line in enumerate(lines[:-1])) + lines[-1]


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (3,), (0, 1, 2, 3), (2, 3)], ids=repr)
def test_bare_lf_as_line_end(server, key, places):
    refused(server, key, bare(head(f"GET {path('hit', key=key)} HTTP/1.1", "X-A: b"), *places))


@pytest.mark.parametrize("hosts", [[], ["a", "a"], ["a", "b"], ["a", ""]], ids=repr)
def test_host_is_there_once(server, key, hosts):
    refused(server, key, hit(key, *(f"Host: {h}" for h in hosts), host=None))


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a@b", "a,b", "a?b", "a#b", "a\\b", "<a>", "\xe9", "http://a", "a:b", "[::1", "a:80:80"]
)
def test_host_that_is_none(server, key, host):
    """RFC 9112, 3.2: 400 for an invalid value."""
    refused(server, key, hit(key, host=f"Host: {host}"))


@pytest.mark.parametrize(
    "host", ["a", "a:80", "a:", "", "127.0.0.1", "[::1]", "[::1]:80", "xn--caf-dma.example", "a_b.c", "a.", "A%20b"]
)
def test_host_that_is_one(server, host):
    with server.connect() as c:
        assert c.send(head("GET /whole HTTP/1.1", host=f"Host: {host}")).reply().text == "block"


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        (b"GET /hit?key=KEY a HTTP/1.1", [400]),
        (b"GET  /hit?key=KEY HTTP/1.1", [400]),
        (b"GET /hit?key=KEY  HTTP/1.1", [400]),
        (b"GET /hit?key=KEY HTTP/1.1 ", [400]),
        (b" GET /hit?key=KEY HTTP/1.1", [400]),
        (b"GET\t/hit?key=KEY\tHTTP/1.1", [400]),
        (b"GET /hit?key=KEY", [400, 505]),
        (b"GET HTTP/1.1", [400, 505]),
        (b"GET", [400]),
        (b"/hit?key=KEY HTTP/1.1", [400, 501, 505]),
        (b"GET /hit?key=KEY&\x01 HTTP/1.1", [400]),
        (b"GET /hit\x7f?key=KEY HTTP/1.1", [400]),
        (b"GET /hit?key=KEY&\x00 HTTP/1.1", [400]),
        (b"GET /hit?key=KEY&\r HTTP/1.1", [400]),
        (b"GET hit?key=KEY HTTP/1.1", [400]),
        (b"GET ?key=KEY HTTP/1.1", [400]),
        (b"GET test:80 HTTP/1.1", [400]),
        (b"GET * HTTP/1.1", [400, 404, 405]),
        (b"CONNECT test:80 HTTP/1.1", [400, 405, 501]),
        (b"GET /hit?key=KEY http/1.1", [400, 505]),
        (b"GET /hit?key=KEY HTTP/1.1x", [400, 505]),
        (b"GET /hit?key=KEY HTTP/1.", [400, 505]),
        (b"GET /hit?key=KEY HTTP/01.1", [400, 505]),
        (b"GET /hit?key=KEY HTTP/1.10", [400, 505]),
        (b"GET /hit?key=KEY HTTP/9.9", [400, 505]),
        (b"GET /hit?key=KEY HTTP/2.0", [400, 505]),
        (b"GET /hit?key=KEY HTTP/0.9", [400, 505]),
        (b"GET /hit?key=KEY HTTP/1.2", [400, 505, 200]),
        (b"G(T /hit?key=KEY HTTP/1.1", [400, 405, 501]),
        (b"GE\x01T /hit?key=KEY HTTP/1.1", [400]),
        (b"G\xc9T /hit?key=KEY HTTP/1.1", [400]),
        (b"GE:T /hit?key=KEY HTTP/1.1", [400]),
        (b'"GET" /hit?key=KEY HTTP/1.1', [400]),
    ],
    ids=lambda x: repr(x) if isinstance(x, bytes) else "",
)
def test_request_line_that_is_none(server, key, line, statuses):
    answers = replies(exchange(server, head(line.replace(b"KEY", key.encode()), "Connection: close")))
    assert [a.status in statuses for a in answers] == [True], answers
    assert 200 in statuses or recall(server, key) == []


def test_fragment_in_the_target(server, key):
    answers = replies(exchange(server, head(f"GET /hit?key={key}#fragment HTTP/1.1", "Connection: close")))
    assert answers[0].status == 400 or recall(server, key) == ["called", "complete", 0]


@pytest.mark.parametrize("escape", ["%zz", "%", "%4", "%4g", "%%41"])
def test_bad_percent_escape_is_refused_or_kept(server, escape):
    (reply,) = replies(exchange(server, head(f"GET /environment/{escape} HTTP/1.1", "Connection: close")))
    kept = f'"PATH_INFO": "/environment/{escape.replace("%%41", "%A")}"'
    assert reply.status == 400 or (reply.status == 200 and kept in reply.text)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /hit?key=KEY\r\n",
        b"GET /hit?key=KEY\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(range(200)) + b"\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ],
    ids=["HTTP/0.9", "HTTP/0.9 with an empty line", "TLS hello", "zeros", "ones", "HTTP/2 preface"],
)
def test_what_is_not_http_1_is_refused_or_closed(server, key, data):
    answers = replies(exchange(server, data.replace(b"KEY", key.encode())))
    assert [a.status for a in answers] in ([], [400], [405], [501], [505]), answers
    assert recall(server, key) == []


CHUNKS = {
    "trailing letter": b"3x\r\nabc\r\n",
    "negative": b"-3\r\nabc\r\n",
    "plus": b"+3\r\nabc\r\n",
    "0x": b"0x3\r\nabc\r\n",
    "leading space": b" 3\r\nabc\r\n",
    "leading tab": b"\t3\r\nabc\r\n",
    "empty": b"\r\nabc\r\n",
    "only an extension": b";a=b\r\nabc\r\n",
    "underscore": b"3_0\r\n" + b"a" * 48 + b"\r\n",
    "17 digits": b"FFFFFFFFFFFFFFFFF\r\nabc\r\n",
    "overflow to 3": b"10000000000000003\r\nabc\r\n",
    "16 digits": b"FFFFFFFFFFFFFFFF\r\nabc\r\n",
    "LF only": b"3\nabc\r\n",
    "CR only": b"3\rabc\r\n",
    "CR CR LF": b"3\r\r\nabc\r\n",
    "space inside": b"3 3\r\nabc\r\n",
    "NUL": b"3\0\r\nabc\r\n",
    "data longer": b"3\r\nabcdef\r\n",
    "data shorter": b"3\r\nab\r\n",
    "no CRLF after data": b"3\r\nabc3\r\nabc\r\n",
    "bare LF after data": b"3\r\nabc\n",
    "bare CR after data": b"3\r\nabc\r",
    "LF in extension": b"3;a\nb\r\nabc\r\n",
    "LF in extension value": b'3;a="\n"\r\nabc\r\n',
    "CR in extension": b"3;a\rb\r\nabc\r\n",
    "NUL in extension": b"3;a\0b\r\nabc\r\n",
    "later chunk bad": b"3\r\nabc\r\nxyz\r\nabc\r\n",
}
ENDS = {
    "trailer without colon": b"0\r\nno colon\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX-A : b\r\n\r\n",
    "trailer with LF": b"0\r\nX-A: b\n\r\n",
    "trailer with NUL": b"0\r\nX-A: \0\r\n\r\n",
    "last chunk with LF": b"0\n\r\n",
    "last line with LF": b"0\r\n\n",
    "bytes after the last chunk": b"0\r\nabc\r\n\r\n",
    "last chunk negative": b"-0\r\n\r\n",
    "last chunk letter": b"0x\r\n\r\n",
}


def refused_body(server, key, body, statuses=(400,)):
    """400 or the like, closed, and no complete body in the application."""
    second = head(f"GET {path('hit', key=key + '2')} HTTP/1.1")
    first = head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked")
    answers = replies(exchange(server, first + body + second))
    assert [a.status in statuses for a in answers] == [True], answers
    assert "complete" not in recall(server, key) and recall(server, key + "2") == []


@pytest.mark.parametrize("chunk", CHUNKS)
def test_bad_chunk(server, key, chunk):
    refused_body(server, key, CHUNKS[chunk] + b"0\r\n\r\n", (400, 413) if "digits" in chunk else (400,))


@pytest.mark.parametrize("chunk", ["trailing letter", "data longer", "LF only", "empty"])
def test_bad_chunk_after_much_data(server, key, chunk):
    refused_body(server, key, chunked(bytes(2_000_000), 50_000)[:-5] + CHUNKS[chunk] + b"0\r\n\r\n")


@pytest.mark.parametrize("end", ENDS)
def test_bad_end_of_chunks(server, key, end):
    refused_body(server, key, b"3\r\nabc\r\n" + ENDS[end])


@pytest.mark.parametrize("chunk", ["trailing letter", "data longer", "LF only"])
def test_bad_chunk_after_100_continue(server, key, chunk):
    with server.connect() as c:
        c.send(head(f"POST {path('hit', key=key)} HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert c.reply(interim=True).status == 100
        c.send(CHUNKS[chunk] + b"0\r\n\r\n")
        assert c.reply().status in (400, 500)
        assert c.closed()
    seen = recall(server, key)
    assert "complete" not in seen and seen[-1].startswith("error"), seen
