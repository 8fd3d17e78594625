"""What becomes of exceptions, and of what the application says to wsgi.errors."""

import pytest

from conformance.support import path
from harness import eventually


def traceback_of(server, key):
    """The traceback in the log that ends with the exception whose message is `key`."""
    end = f"Error: {key}"
    eventually(lambda: end in server.log(), 10, f"the exception {key} in the log")
    _, opening, traceback = server.log().partition(end)[0].rpartition("Traceback (most recent call last)")
    return traceback if opening and len(traceback) < 3000 else "no traceback"


@pytest.mark.parametrize("when", ["called", "started", "first next", "after an empty block"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_exception_before_data_is_a_500_without_traceback(server, conn, key, when, method):
    reply = conn.request(path("fail", when=when, key=key), method=method, body=b"x" * (method == "POST"))
    assert reply.status == 500 and reply.complete
    assert b"Traceback" not in reply.body and key.encode() not in reply.body and b".py" not in reply.body
    assert "fail_deliberately" in traceback_of(server, key)


@pytest.mark.parametrize("when", ["mid-stream", "mid-stream with a length"])
def test_exception_mid_stream_cuts_without_terminator(server, conn, key, when):
    reply = conn.request(path("fail", when=when, key=key))
    assert reply.status == 200 and not reply.complete and reply.body == b"first"
    assert conn.closed()
    assert "fail_deliberately" in traceback_of(server, key)


def test_exception_mid_stream_on_http_1_0_is_logged(server, conn, key):
    assert conn.request(path("fail", when="mid-stream", key=key), version="HTTP/1.0").body == b"first"
    assert "fail_deliberately" in traceback_of(server, key)


@pytest.mark.parametrize(
    "error", ["SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit", "BaseException", "StopIteration"]
)
@pytest.mark.parametrize("when", ["called", "started", "first next", "mid-stream"])
def test_no_exception_ends_the_server(server, key, error, when):
    reply = server.get(path("fail", error=error, when=when, key=key))
    if when == "mid-stream":
        assert reply.status == 200 and not reply.complete
    else:
        assert reply.status == 500
    assert server.get("/whole").text == "block"
    server.wait_log(key, 10)


def test_wsgi_errors_reaches_the_log(server, key):
    assert server.get(path("speak", key=key)).text == "spoken"
    server.wait_log(f"{key}-written", 10)
    server.wait_log(f"{key}-first of several", 10)
    server.wait_log(rf"{key}-caf(é|\\u00e9|\\xe9)", 10)
