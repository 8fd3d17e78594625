"""The loads of tests/soak.py, and what would leak."""

import gc
import json
import sys
import threading
import time

BLOCK = b"x" * 16384


def stream():
    for _ in range(64):
        yield BLOCK


def upload(environ):
    source, size = environ["wsgi.input"], 0
    while data := source.read(65536):
        size += len(data)
    return str(size).encode()


def slow():
    time.sleep(0.05)
    return b"slow"


def leaks():
    gc.collect()
    return json.dumps(
        {"objects": len(gc.get_objects()), "blocks": sys.getallocatedblocks(), "threads": threading.active_count()}
    ).encode()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise RuntimeError("on purpose")
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/stream":
        return stream()
    return [{"/upload": lambda: upload(environ), "/slow": slow, "/leaks": leaks}.get(path, path.encode)()]
