"""What several of these tests need of a client."""

import os
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from harness import eventually


def chunked(*blocks):
    """A body in the chunked coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in blocks) + b"0\r\n\r\n"


def is_paused(pid):
    states = (task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return set(states) == {"T"}


@contextmanager
def paused(pid):
    """Holds a worker, so that another one takes the next connection."""
    os.kill(pid, SIGSTOP)
    try:
        # The signal is on its way when kill returns: a thread that still runs may accept one more connection.
        eventually(lambda: is_paused(pid), what=f"the pause of {pid}")
        yield
    finally:
        os.kill(pid, SIGCONT)
