"""Ways to use start_response, write() and the iterable, right and wrong."""

import sys
import time

from . import answer, argument, behaviour, note, wait_at_gate, wait_for_file

TEXT = [("Content-Type", "text/plain")]


def with_length(size):
    return [*TEXT, ("Content-Length", str(size))]


@behaviour
def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read() or argument(environ, "say").encode())


@behaviour
def whole(environ, start_response):
    """A list of one block (`blocks` of them), without a Content-Length."""
    start_response("200 OK", TEXT)
    return [b"block"] * int(argument(environ, "blocks", "1"))


@behaviour
def generated(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"one "
    yield b"two "
    yield b"three"


@behaviour
def write_then_iterate(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"one ")
    write(b"")
    write(b"two ")
    return [b"three"]


@behaviour
def write_and_wait(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"first")
    wait_at_gate(environ)
    write(b"second")
    return []


@behaviour
def yield_and_wait(environ, start_response):
    """`length=1`: with a Content-Length."""
    start_response("200 OK", with_length(len(b"firstsecond")) if argument(environ, "length") else TEXT)
    yield b"first"
    wait_at_gate(environ)
    yield b"second"


@behaviour
def hold(environ, start_response):
    """Occupies its thread until the file `until` exists."""
    note(environ, "called")
    start_response("200 OK", TEXT)
    yield b"held"
    wait_for_file(argument(environ, "until"))
    yield b"released"


@behaviour
def sleep(environ, start_response):
    time.sleep(float(argument(environ, "seconds")))
    return answer(start_response, b"awake")


def _fail():
    raise RuntimeError("the first answer went wrong")


@behaviour
def replace(environ, start_response):
    start_response("200 OK", [*with_length(999), ("X-First", "yes")])
    try:
        _fail()
    except RuntimeError:
        start_response("503 Replaced", [*with_length(8), ("X-Second", "yes")], sys.exc_info())
    return [b"replaced"]


@behaviour
def replace_lazily(environ, start_response):
    start_response("200 OK", [*with_length(999), ("X-First", "yes")])
    try:
        yield b""
        _fail()
    except RuntimeError:
        start_response("503 Replaced", [*with_length(8), ("X-Second", "yes")], sys.exc_info())
    yield b"replaced"


@behaviour
def replace_too_late(environ, start_response):
    """`length=1`: with a Content-Length; `write=1`: the first block through write()."""
    write = start_response("200 OK", with_length(100) if argument(environ, "length") else TEXT)
    if argument(environ, "write"):
        write(b"first")
    else:
        yield b"first"
    try:
        raise RuntimeError(argument(environ, "key"))
    except RuntimeError as error:
        try:
            start_response("500 Replaced", with_length(8), sys.exc_info())
        except RuntimeError as again:
            note(environ, "the same" if again is error else "another")
            raise
    yield b"replaced"


@behaviour
def start_twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"never"]


@behaviour
def never_start(environ, start_response):
    return [b"never"] * int(argument(environ, "blocks", "0"))


@behaviour
def start_at_first_next(environ, start_response):
    start_response("201 Lazy", TEXT)
    for _ in range(int(argument(environ, "blocks", "0"))):
        yield b"lazy"


@behaviour
def start_after_empty_block(environ, start_response):
    yield b""
    start_response("200 OK", TEXT)
    yield b"data"


@behaviour
def empty_blocks(environ, start_response):
    start_response("200 OK", with_length(2) if argument(environ, "length") else TEXT)
    yield from (b"", b"a", b"", b"", b"b", b"")


@behaviour
def not_bytes(environ, start_response):
    start_response("200 OK", TEXT)
    return {
        "str in a list": ["text"],
        "a str": "text",
        "int": [42],
        "None": None,
        "str after bytes": iter([b"bytes", "text"]),
        "bytearray then int": iter([b"bytes", 42]),
    }[argument(environ, "body")]


@behaviour
def wrong_length(environ, start_response):
    """Announces `length` bytes and offers `size`, by a list, a generator or write()."""
    write = start_response("200 OK", with_length(int(argument(environ, "length"))))
    size = int(argument(environ, "size"))
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Smuggled: yes\r\n\r\n" * 10
    blocks = [body[i : min(i + 4, size)] for i in range(0, size, 4)]
    match argument(environ, "by"):
        case "list":
            return [body[:size]]
        case "generator":
            return iter(blocks)
        case "write":
            for block in blocks:
                write(block)
            return []


@behaviour
def status(environ, start_response):
    """Answers `line`, with a body whether or not the status allows one; `length=1`: with a Content-Length."""
    body = argument(environ, "body").encode()
    start_response(argument(environ, "line"), with_length(len(body)) if argument(environ, "length") else [("X-A", "b")])
    return iter([body]) if argument(environ, "generator") else [body]


@behaviour
def without_body_on_head(environ, start_response):
    start_response("200 OK", TEXT)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"a body"]


@behaviour
def large(environ, start_response):
    """4 MiB as one block, or as a list (`shape=list`) or generator of blocks; /large_size tells what was asked for."""
    shape = argument(environ, "shape", "block")
    start_response("200 OK", with_length(4 << 20))
    if shape == "block":
        return [bytes(4 << 20)]
    blocks = [bytes(1 << 16)] * 64
    return blocks if shape == "list" else iter(blocks)
