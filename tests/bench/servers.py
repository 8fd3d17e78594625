"""The servers that are compared, and the command that starts each."""

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness import BINARY, free_port

THREADS = 4
VENV = Path(sys.prefix)
"""Where the peers are installed, and who runs this."""


@dataclass(frozen=True)
class Server:
    title: str
    command: tuple
    """Words with {port}, {workers} and {site}."""
    package: str | None = None
    """What it is called on PyPI."""
    forks: bool = True
    """It starts as many workers as it is told."""

    def cannot(self, load):
        """Why a load is not for it; None if it is."""

    def version(self):
        return f"{self.title} {metadata.version(self.package)}" if self.package else None


class Floor(Server):
    def cannot(self, load):
        return None if load.path == "/" else "is no WSGI server"


def peer(title, program, package=None):
    """A program of the virtual environment, with its arguments."""
    return Server(title, (f"{VENV}/bin/{program.split()[0]}", *program.split()[1:]), package or title)


def script(title, code, package=None):
    """A peer that a line of Python starts."""
    return Server(title, (f"{VENV}/bin/python", "-c", f"import {title}, root; {code}"), package or title, forks=False)


ATRIO = (
    f"{BINARY} --sites {{site}} --venv {VENV} --listen 127.0.0.1:{{port}} --admin-listen 127.0.0.1:0"
    f" --workers {{workers}} --threads {THREADS} --log warn"
)
COLLECTOR = free_port()
"""Where `telling` sends its traces."""
TRACES = (
    f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{COLLECTOR}"
    " OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.01"
)
SERVERS = {
    "atrio": Server("Atrio", tuple(f"{ATRIO} --access-log off".split())),
    "floor": Floor("bare hyper", (f"{Path(BINARY).parent}/examples/floor", "127.0.0.1:{port}"), forks=False),
    "granian": peer(
        "granian",
        f"granian --interface wsgi --host 127.0.0.1 --port {{port}} --workers {{workers}} --blocking-threads {THREADS}"
        " --no-access-log --log-level warning root:application",
    ),
    "bjoern": script("bjoern", "bjoern.run(root.application, '127.0.0.1', {port})", package="bjoern-binary"),
    # Of uWSGI's ways to speak HTTP the quickest: without a router, and with keep-alive, for as many connections as threads.
    "uwsgi": peer(
        "uWSGI",
        f"uwsgi --master --die-on-term --http11-socket 127.0.0.1:{{port}} --listen 1024 --processes {{workers}}"
        f" --threads {THREADS} --disable-logging --need-app --home {VENV} --module root:application",
    ),
    "gunicorn": peer(
        "gunicorn",
        f"gunicorn --bind 127.0.0.1:{{port}} --worker-class gthread --workers {{workers}} --threads {THREADS}"
        " --log-level warning --no-control-socket root:application",
    ),
    # With chunked_transfer, a last chunk follows bodies that have a Content-Length; without, a stream ends with its connection,
    # which wrk counts as an error of reading. With max_reuse_count, connections stall.
    "pyruvate": script("pyruvate", f"pyruvate.serve(root.application, '127.0.0.1:{{port}}', {THREADS})"),
}
TELLING = Server("Atrio with access log and traces", ("env", *f"{TRACES} {ATRIO} --access-log json".split()))
"""`atrio`, with a line of the access log for each request, and traces of one in a hundred."""
