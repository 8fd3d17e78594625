"""What the application is told about its request."""

import os
import threading
from wsgiref.validate import validator

from . import PATIENCE, answer, answer_json, argument, behaviour

_barriers = {}


@behaviour
def environment(environ, start_response):
    value = {
        "class": f"{type(environ).__module__}.{type(environ).__qualname__}",
        "types": {name: type(value).__name__ for name, value in environ.items()},
        "strings": {name: value for name, value in environ.items() if isinstance(value, str)},
        "wsgi": {n: environ.get(f"wsgi.{n}") for n in ("version", "multithread", "multiprocess", "run_once")},
        "version is a tuple": type(environ.get("wsgi.version")) is tuple,
        "input_terminated": environ.get("wsgi.input_terminated"),
        "input": [n for n in ("read", "readline", "readlines", "__iter__") if hasattr(environ["wsgi.input"], n)],
        "errors": [n for n in ("write", "writelines", "flush") if hasattr(environ["wsgi.errors"], n)],
        "file_wrapper": callable(environ.get("wsgi.file_wrapper")),
    }
    return answer_json(start_response, value)


@behaviour
def mark(environ, start_response):
    """Says whether this environ is one that an earlier request has written to."""
    was = environ.get("test.mark", "fresh")
    environ["test.mark"] = environ["HTTP_MARKED"] = environ["PATH_INFO"] = "used"
    return answer(start_response, was.encode())


@behaviour
def validated(environ, start_response):
    def inner(environ, start_response):
        body = (
            b"".join(iter(lambda: environ["wsgi.input"].read(7), b"")) if environ["REQUEST_METHOD"] == "POST" else b""
        )
        environ["wsgi.errors"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"valid ", body]

    return validator(inner)(environ, start_response)


@behaviour
def pid(environ, start_response):
    return answer(start_response, str(os.getpid()).encode())


@behaviour
def together(environ, start_response):
    """Answers once `count` requests are here at the same time."""
    barrier = threading.Barrier(int(argument(environ, "count")))
    _barriers.setdefault(argument(environ, "key"), barrier).wait(PATIENCE)
    return answer(start_response, b"together")
