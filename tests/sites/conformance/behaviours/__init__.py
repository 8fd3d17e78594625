"""The register of behaviours, and what the site remembers between requests, each thing under the key of one test."""

import json
import os
import threading
import time
from urllib.parse import parse_qs

BEHAVIOURS = {}
PATIENCE = 10
_notes, _gates = {}, {}


def behaviour(function):
    """Registers a WSGI application at the path of its name."""
    BEHAVIOURS[function.__name__] = function
    return function


def argument(environ, name, default=""):
    return parse_qs(environ.get("QUERY_STRING", "")).get(name, [default])[0]


def note(environ, what):
    _notes.setdefault(argument(environ, "key"), []).append(what)


def gate(environ):
    return _gates.setdefault(argument(environ, "key"), threading.Event())


def wait_at_gate(environ):
    """Until the test asks for /open with the same key."""
    if not gate(environ).wait(PATIENCE):
        raise TimeoutError("nobody opened the gate")


def wait_for_file(path):
    """Until `path` exists: for tests in which no other thread of the site is free to open a gate."""
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody created {path}")
        time.sleep(0.01)


def answer(start_response, body, *headers, status="200 OK"):
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]


def answer_json(start_response, value):
    return answer(start_response, json.dumps(value).encode())


@behaviour
def open(environ, start_response):
    gate(environ).set()
    return answer(start_response, b"open")


@behaviour
def notes(environ, start_response):
    return answer_json(start_response, _notes.get(argument(environ, "key"), []))
