"""Tells which process and thread runs a request, and lets the test break them."""

import ctypes
import json
import mmap
import os
import threading
import time
from urllib.parse import parse_qs

PATIENCE = 30
local = threading.local()
barriers = {}


def who():
    local.requests = getattr(local, "requests", 0) + 1
    thread = threading.current_thread()
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "thread": thread.name,
        "ident": thread.ident,
        "native": threading.get_native_id(),
        "requests": local.requests,
    }


def meet(name, count):
    """Comes back when `count` requests are here at once, so that each has another thread."""
    barriers.setdefault(name, threading.Barrier(int(count))).wait(PATIENCE)
    return who()


def race(path, me, steps):
    """Counts in memory shared with another worker until that one has counted too."""
    steps = int(steps)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 16) as memory:
        mine, theirs = memoryview(memory).cast("Q"), memoryview(memory).cast("Q")
        me, start, end = int(me), time.thread_time(), time.monotonic() + PATIENCE
        while (mine[me] < steps or theirs[1 - me] < steps) and time.monotonic() < end:
            mine[me] += 1
        result = {"pid": os.getpid(), "seen": theirs[1 - me] >= steps, "cpu": time.thread_time() - start}
        mine.release()
        theirs.release()
        return result


def segfault():
    ctypes.string_at(0)


def stream(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(1000):
        yield b"x" * 10_000


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    if name == "stream":
        return stream(start_response)
    arguments = {k: v[0] for k, v in parse_qs(environ["QUERY_STRING"]).items()}
    environ["wsgi.input"].read()
    result = {"meet": meet, "race": race, "segfault": segfault}.get(name, who)(**arguments)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]
