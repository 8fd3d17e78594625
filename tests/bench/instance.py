"""A server that runs: how it starts and stops, and what /proc tells of all of its processes."""

import os
import re
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import Connection, clean_environment, descendants, eventually, free_port

SITES = Path(__file__).parent / "sites"
GRACE = 5.0
"""For a server to leave, in seconds."""
TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Why a server has no figures."""


class Instance:
    def __init__(self, port, process):
        self.port, self.process = port, process

    def ask(self, load):
        """One request of a load, on a connection of its own; Failed unless the answer is what the load expects."""
        try:
            with Connection(self.port) as connection:
                method, close = "POST" if load.upload else "GET", [("Connection", "close")]
                reply = connection.request(load.path, close, method, bytes(load.upload))
                closes = not load.close or closes_now(connection)
        except (OSError, EOFError, ValueError) as error:
            raise Failed(f"does not answer: {error!r}") from None
        if (reply.status, len(reply.body)) != (200, load.answer):
            raise Failed(f"answers {reply.status} with {len(reply.body)} bytes")
        if not closes:
            raise Failed("does not close connections when it is asked to")

    def pids(self):
        return [self.process.pid, *descendants(self.process.pid)]

    def cpu(self):
        """Seconds of the processor that its processes have had, and those before them that it has reaped."""
        seconds = 0
        for pid in self.pids():
            with suppress(OSError):
                seconds += time.clock_gettime(clock_of(pid))
        for stat in self.read("stat"):
            seconds += sum(map(int, stat[stat.rindex(")") + 2 :].split()[13:15])) / TICK
        return seconds

    def pss(self):
        """MiB of memory: what its processes share counts once."""
        found = (re.search(r"(?m)^Pss: +(\d+)", rollup) for rollup in self.read("smaps_rollup"))
        return sum(int(pss[1]) for pss in found if pss) / 1024

    def read(self, name):
        for pid in self.pids():
            with suppress(OSError):
                yield Path(f"/proc/{pid}/{name}").read_text()

    def stop(self):
        left = self.pids()
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def clock_of(pid):
    """As clock_getcpuclockid(3) has it: to the nanosecond, where /proc/PID/stat has hundredths of seconds."""
    return (~pid << 3) | 2


def closes_now(connection):
    connection.socket.settimeout(1)
    try:
        return connection.closed()
    except TimeoutError:
        return False


def on_processors(cpus, command):
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


@contextmanager
def running(server, site, workers, cpus, load):
    """The server on one of SITES, once it answers `load`; `cpus` are the processors that it may use."""
    port, site = free_port(), SITES / site
    command = [word.format(port=port, workers=workers, site=site) for word in server.command]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            on_processors(cpus, command),
            cwd=site,
            env=clean_environment(PYTHONPATH=site, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        instance = Instance(port, process)

        def listens():
            with suppress(OSError):
                Connection(port).close()
                return True
            return process.poll() is not None

        try:
            try:
                eventually(listens)
            except AssertionError:
                raise Failed("does not listen") from None
            if process.poll() is not None:
                log.seek(0)
                raise Failed(f"does not start: {log.read().strip() or process.returncode}")
            instance.ask(load)
            yield instance
        finally:
            instance.stop()
