"""A path for each load of loads.py. What is not measured, as making a body, is done before the first request."""

import json
import time

HELLO = b"Hello, World!\n"
BLOCK = b"x" * 16384
BODY = BLOCK * 1024
ROWS = [{"id": i, "name": f"row {i}", "value": i * 1.5, "tags": ["a", "b", "c"]} for i in range(120)]
OF_A_FRAMEWORK = [("Set-Cookie", "a=1; Path=/"), ("X-Frame-Options", "DENY"), ("Cache-Control", "no-store")]


def whole(start_response, body, kind="application/octet-stream", headers=()):
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body))), *headers])
    return [body]


def hello(environ, start_response):
    return whole(start_response, HELLO, "text/plain")


def as_json(environ, start_response):
    return whole(start_response, json.dumps(ROWS).encode(), "application/json", OF_A_FRAMEWORK)


def io(environ, start_response):
    time.sleep(0.010)
    return hello(environ, start_response)


def cpu(environ, start_response):
    total = 0
    for i in range(20_000):
        total += i & 7
    return hello(environ, start_response)


def upload(environ, start_response):
    source, size = environ["wsgi.input"], 0
    left = int(environ["CONTENT_LENGTH"])
    while left and (data := source.read(min(left, 65536))):
        size += len(data)
        left -= len(data)
    return whole(start_response, str(size).encode(), "text/plain")


def stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (BLOCK for _ in range(64))


def body(environ, start_response):
    return whole(start_response, BODIES[environ["QUERY_STRING"]])


BODIES = {str(size): BODY[:size] for size in (4**n * 1024 for n in range(8))}
"""1 KiB, 4 KiB … 16 MiB."""
PATHS = {"/": hello, "/json": as_json, "/io": io, "/cpu": cpu, "/upload": upload, "/stream": stream, "/body": body}


def application(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)
