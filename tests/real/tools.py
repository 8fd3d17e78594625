"""What several of these tests need of a client."""

import os
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP


def chunked(*blocks):
    """A body in the chunked coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in blocks) + b"0\r\n\r\n"


@contextmanager
def paused(pid):
    """Holds a worker, so that another one takes the next connection."""
    os.kill(pid, SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, SIGCONT)
