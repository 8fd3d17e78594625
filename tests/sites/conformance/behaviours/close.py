"""Iterables that write down when they are closed."""

import time

from . import answer_json, argument, behaviour, note

_produced = {}


class Noted:
    """Iterates `blocks`, an exception among them is raised; notes each close()."""

    def __init__(self, environ, blocks):
        self.environ, self.blocks = environ, iter(blocks)

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self.blocks)
        if isinstance(block, BaseException):
            raise block
        return block

    def close(self):
        note(self.environ, "closed")


def _endless(environ, size, pause):
    key = argument(environ, "key")
    for sent in range(0, 256 << 20, size):
        _produced[key] = sent
        if pause:
            time.sleep(pause)
        yield bytes(size)


@behaviour
def closing(environ, start_response):
    headers = [("Content-Type", "text/plain")]
    status = "200 OK"
    match argument(environ, "when"):
        case "normal":
            blocks = [b"one", b"two"]
        case "nothing":
            blocks = []
        case "first next raises":
            blocks = [RuntimeError("at once")]
        case "later next raises":
            blocks = [b"one", RuntimeError("later")]
        case "not started":
            return Noted(environ, [b"one"])
        case "not bytes":
            blocks = ["text"]
        case "too long":
            headers.append(("Content-Length", "2"))
            blocks = [b"one", b"two"]
        case "no content":
            status = "204 No Content"
            blocks = []
        case "SystemExit":
            blocks = [SystemExit(3)]
        case "endless":
            blocks = _endless(environ, 1 << 16, 0)
        case "endless trickle":
            blocks = _endless(environ, 10, 0.005)
    start_response(status, headers)
    return Noted(environ, blocks)


@behaviour
def close_raises(environ, start_response):
    class Stubborn(Noted):
        def close(self):
            super().close()
            raise RuntimeError(argument(environ, "key"))

    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return Stubborn(environ, [b"body"])


@behaviour
def endless_write(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        for block in _endless(environ, 1 << 16, 0):
            write(block)
    finally:
        note(environ, "closed")
    return []


@behaviour
def produced(environ, start_response):
    """How many bytes the endless answer of this key has got rid of."""
    return answer_json(start_response, _produced.get(argument(environ, "key"), 0))
