"""What the conformance tests share: bytes in, bytes out, and what the site remembers."""

import itertools
import json
import os
import socket
import time
from urllib.parse import urlencode

from harness import Connection, Reply, eventually

_numbers = itertools.count()


def unique():
    return f"key-{os.getpid()}-{next(_numbers)}-end"


def path(behaviour, **arguments):
    """The path of a behaviour of the site, with its arguments."""
    return f"/{behaviour}?{urlencode(arguments)}"


def recall(server, key):
    """What the site has noted under `key`."""
    return json.loads(server.get(path("notes", key=key)).body)


def open_gate(server, key):
    assert server.get(path("open", key=key)).text == "open"


def head(line, *headers, host="Host: test"):
    """The bytes of a request's head; lines may be str or bytes."""
    lines = [line, *([host] if host else []), *headers, "", ""]
    return b"\r\n".join(x if isinstance(x, bytes) else x.encode("latin-1") for x in lines)


def chunked(body, size=None):
    """`body` in chunks of `size` bytes, with the last chunk."""
    size = size or len(body) or 1
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


def drip(connection, data, size, pause=0.005):
    """Sends `data` in pieces that the server gets one by one."""
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(0, len(data), size):
        connection.send(data[i : i + size])
        time.sleep(pause)


def exchange(server, data, timeout=5):
    """Sends bytes on a fresh connection; all that comes back until the server closes, which it must."""
    with Connection(server.port, timeout) as c:
        try:
            c.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed before it had read everything: what it said is still to be read
        return drain(c)


def drain(connection):
    """All that still comes on a connection until the server closes it, which it must."""
    try:
        while connection.more():
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        raise AssertionError(f"the connection stays open; so far: {connection.buffer!r}") from None
    return connection.buffer


def replies(data):
    """The responses in a byte stream that holds nothing else, none of which has a chunked body."""
    found = []
    while data:
        before, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"no end of the head: {before!r}"
        assert before.startswith(b"HTTP/1."), f"not a response: {before!r}"
        reply = Reply(before, b"", True)
        length = int(reply.header("content-length", len(data)))
        reply.body, data = data[:length], data[length:]
        found.append(reply)
    return found


def unchanging(value, span=0.3, what="a value that stays"):
    """The value of a function, once it has stayed the same for `span` seconds and is true."""
    last = since = None

    def settled():
        nonlocal last, since
        now = value()
        if now != last or since is None:
            last, since = now, time.monotonic()
        return now if time.monotonic() - since >= span else None

    return eventually(settled, 20, what)
