"""Requests that say by a file that they have begun, and go on when the test has put another one there."""

import atexit
import os
import time
from ctypes import PyDLL
from pathlib import Path

GATES = Path(os.environ["GATES"])
STUCK = 12
"""Seconds."""


def wait(name):
    (GATES / f"{name}.begun").touch()
    while not (GATES / f"{name}.open").exists():
        time.sleep(0.01)


def stream(name):
    yield b"first "
    wait(name)
    yield b"last"


def stick(name):
    """Keeps the GIL."""
    (GATES / f"{name}.begun").touch()
    PyDLL(None).sleep(STUCK)


@atexit.register
def leave():
    with open(GATES / "left", "a") as file:
        print(os.getpid(), file=file)


def application(environ, start_response):
    what, _, name = environ["PATH_INFO"].strip("/").partition("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if what == "stream":
        return stream(name)
    if what == "wait":
        wait(name)
    elif what == "stick":
        stick(name)
    return [b"done"]
