"""A server that hardly gets a processor is slow, and nothing else."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from harness import Atrio

CONNECTIONS, REQUESTS = 16, 25


@contextmanager
def starved(*pids):
    """Processes that share one processor with a program that always runs, and come last: they lose it between any two instructions,
    for longer than any patience that threads have with each other."""
    processor = max(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            os.sched_setaffinity(busy.pid, {processor})
            for thread in (int(tid) for pid in pids for tid in os.listdir(f"/proc/{pid}/task")):
                os.sched_setaffinity(thread, {processor})
                os.setpriority(os.PRIO_PROCESS, thread, 19)
            yield
        finally:
            busy.kill()


def test_every_request_is_answered_without_a_processor_of_ones_own():
    def visit(_):
        with server.connect(30) as connection:
            return [connection.request().status for _ in range(REQUESTS)]

    with Atrio("processes") as server, starved(*server.workers()), ThreadPoolExecutor(CONNECTIONS) as visitors:
        assert list(visitors.map(visit, range(CONNECTIONS))) == [[200] * REQUESTS] * CONNECTIONS
