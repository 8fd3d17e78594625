"""PEP 3333: wsgi.file_wrapper."""

import contextlib

import pytest

from conformance.support import head, path, recall
from harness import eventually

CONTENT = b"".join(b"%09d\n" % n for n in range(30_000))
KINDS = ["file", "bytesio", "no fileno"]
PLAIN = ["plain", "reader", "raw"]
"""Files of the disk, which the server reads without Python."""


@pytest.fixture
def file(conn, key):
    """Asks for the file, checks that it was closed and that the connection is in step after it."""

    def ask(what="file", method="GET", version="HTTP/1.1", **arguments):
        target = path("file", what=what, key=key, **arguments)
        conn.send(head(f"{method} {target} {version}"))
        reply = conn.reply(method)
        assert reply.status == 200
        if reply.complete and version == "HTTP/1.1":
            assert conn.request("/whole").text == "block"
        return reply

    return ask


@pytest.mark.parametrize("what", [*KINDS, *PLAIN, "only read", "gzip"])
@pytest.mark.parametrize("length", [None, len(CONTENT)], ids=["no Content-Length", "Content-Length"])
@pytest.mark.parametrize("arguments", [1, 2])
def test_whole_file(file, what, length, arguments):
    reply = file(what, arguments=arguments, **({"length": length} if length else {}))
    assert reply.complete and reply.body == CONTENT


@pytest.mark.parametrize("what", [*KINDS, *PLAIN, "gzip"])
@pytest.mark.parametrize("length", [None, len(CONTENT) - 12345], ids=["no Content-Length", "Content-Length"])
def test_starts_at_the_position_of_the_file(file, what, length):
    reply = file(what, **{"from": 12345}, **({"length": length} if length else {}))
    assert reply.complete and reply.body == CONTENT[12345:]


@pytest.mark.parametrize("what", [*KINDS, *PLAIN, "only read", "gzip"])
@pytest.mark.parametrize("length", [0, 1, 8192, 100_001])
def test_stops_at_content_length(file, what, length):
    reply = file(what, length=length, **{"from": 10})
    assert reply.complete and reply.body == CONTENT[10 : 10 + length]


@pytest.mark.parametrize("what", [*KINDS, *PLAIN])
def test_a_file_shorter_than_content_length_is_cut(file, what):
    reply = file(what, length=len(CONTENT) + 1)
    assert not reply.complete and reply.body == CONTENT


@pytest.mark.parametrize("length", [None, 0], ids=["no Content-Length", "Content-Length"])
def test_empty_file(file, length):
    reply = file("empty", **({} if length is None else {"length": length}))
    assert reply.complete and reply.body == b""


@pytest.mark.parametrize("what", [*KINDS, "only read"])
def test_iterated_by_a_middleware(file, what):
    assert file(what, middleware=1, **{"from": 5}).body == CONTENT[5:].swapcase()


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("how", ["whole", "middleware", "head", "length", "gone"])
def test_the_file_is_closed_once(server, file, key, what, how):
    match how:
        case "gone":
            with server.connect() as c:
                c.send(head(f"GET {path('file', what=what, key=key)} HTTP/1.1"))
                c.more()
        case "head":
            file(what, method="HEAD")
        case "length":
            file(what, length=10)
        case "middleware":
            file(what, middleware=1)
        case "whole":
            file(what)
    assert eventually(lambda: recall(server, key), 5) == ["closed"]


@pytest.mark.parametrize("what", [*KINDS, *PLAIN])
@pytest.mark.parametrize("length", [None, 777], ids=["no Content-Length", "Content-Length"])
def test_head(file, what, length):
    reply = file(what, method="HEAD", **({"length": length} if length else {}))
    assert reply.header("content-length") in ([str(length)] if length else [None, str(len(CONTENT))])


def test_http_1_0(file):
    reply = file(version="HTTP/1.0")
    assert reply.body == CONTENT and not reply.header("transfer-encoding")


def test_a_file_that_the_kernel_makes_is_read_to_its_end(file):
    reply = file("made")
    assert reply.complete and reply.body.startswith(b"Name:") and reply.body.endswith(b"\n")


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_the_client_is_told_how_long_a_plain_file_is(file, what, version):
    reply = file(what, version=version, **{"from": 10})
    assert reply.header("content-length") == str(len(CONTENT) - 10) and reply.body == CONTENT[10:]


def test_clients_that_take_a_large_plain_file_slowly_hold_no_app_thread(server):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(20)]
        for c in slow:
            c.send(head(f"GET {path('file', what='large')} HTTP/1.1"))
            c.more()
        assert server.get("/whole", timeout=3).text == "block"
        assert len(slow[0].reply().body) == 24 << 20
