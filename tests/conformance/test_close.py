"""PEP 3333: close() of the iterable; and that nothing is produced which nobody reads."""

import json
import socket

import pytest

from conformance.support import head, path, recall, unchanging
from harness import Connection, eventually

MOMENTS = {
    "normal": 200,
    "nothing": 200,
    "first next raises": 500,
    "later next raises": 200,
    "not started": 500,
    "not bytes": 500,
    "too long": 200,
    "no content": 204,
    "SystemExit": 500,
}


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_once(server, key, when, method):
    status = server.get(path("closing", when=when, key=key), method=method).status
    assert status in (MOMENTS[when], 200) if method == "HEAD" or when == "not bytes" else status == MOMENTS[when]
    eventually(lambda: recall(server, key), 5, "a call of close()")
    assert unchanging(lambda: recall(server, key), 0.1) == ["closed"]


def test_close_that_raises_spoils_nothing(server, conn, key):
    assert conn.request(path("close_raises", key=key)).text == "body"
    server.wait_log(f"RuntimeError: {key}")
    assert recall(server, key) == ["closed"]


@pytest.mark.parametrize("when", ["endless", "endless trickle"])
def test_close_comes_soon_after_the_client_has_gone(server, key, when):
    with server.connect() as c:
        c.send(head(f"GET {path('closing', when=when, key=key)} HTTP/1.1"))
        assert c.head().status == 200
        c.more()
    eventually(lambda: recall(server, key), 5, "a call of close()")
    assert unchanging(lambda: recall(server, key), 0.1) == ["closed"]


@pytest.mark.parametrize("target", ["closing", "endless_write"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_client_that_does_not_read_halts_the_application(server, key, target, version):
    def produced():
        return json.loads(server.get(path("produced", key=key)).body)

    with Connection(server.port) as c:
        c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.send(head(f"GET {path(target, when='endless', key=key)} {version}"))
        assert c.head().status == 200
        assert unchanging(produced, 0.4) < 32 << 20, "buffered without end"
    eventually(lambda: recall(server, key) == ["closed"], 5, "the end of the stream")
