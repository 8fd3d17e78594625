"""What the behaviour tests share: sites made on the spot, requests in the background, looks at processes."""

import json
import os
import signal
import socket
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import eventually, run


def site(folder, value="'here'", top="", script="root.py", callable="application"):
    """Makes a site that answers the JSON of the expression `value`; `top` is what it executes at import."""
    return write(
        folder,
        f"""
        import json, os, sys
        {textwrap.indent(textwrap.dedent(top).strip(), " " * 8).strip()}

        def {callable}(environ, start_response):
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps({value}).encode()]
        """,
        script,
    )


def slow_site(folder, version, marks):
    """An import that tells it has begun, and waits for leave to go on."""
    top = f"""
        import pathlib, time
        marks = pathlib.Path({str(marks)!r})
        (marks / "begun-{version}").touch()
        while not (marks / "go").exists():
            time.sleep(0.01)
    """
    return site(folder, str(version), top)


def write(folder, code, script="root.py"):
    """Writes a script that needs no more than a few lines into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / script).write_text(textwrap.dedent(code))
    return folder


def answer(server, path="/", **options):
    """What a site made by `site` answers."""
    reply = server.get(path, **options)
    assert reply.status == 200, reply
    return json.loads(reply.body)


def later(function, *args, **options):
    """Calls `function` in a thread of its own; returns the Future of its result."""
    return ThreadPoolExecutor(1).submit(function, *args, **options)


class Gates:
    """The test's side of tests/sites/gates: sees requests begin, and lets them go on."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder

    def await_request(self, name):
        eventually((self.folder / f"{name}.begun").exists, what=f"the request {name} to begin")

    def open(self, name):
        (self.folder / f"{name}.open").touch()

    def written(self, name):
        """The lines that the site has left in a file."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []


class Crowd:
    """Clients that make a connection for each request, one behind the other, until they are refused."""

    def __init__(self, address, size=6):
        self.address, self.answers, self.wrong = address, [], []
        self.leaves = threading.Event()
        self.clients = [threading.Thread(target=self.come, daemon=True) for _ in range(size)]
        for client in self.clients:
            client.start()

    def come(self):
        while not self.leaves.is_set():
            family = socket.AF_UNIX if isinstance(self.address, os.PathLike) else 0
            family = family or (socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET)
            with socket.socket(family) as client:
                client.settimeout(20)
                try:
                    client.connect(str(self.address) if family == socket.AF_UNIX else self.address)
                except (ConnectionRefusedError, FileNotFoundError):
                    return
                try:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                    self.answers.append(client.recv(12))
                    while client.recv(65536):
                        pass
                except OSError as error:
                    self.wrong.append(error)
                    return

    def await_answers(self, count):
        eventually(lambda: self.wrong or len(self.answers) >= count, what="answers")

    def lost(self):
        """What went wrong, once all have been refused, or have been told to leave."""
        for client in self.clients:
            client.join(20)
        assert not any(client.is_alive() for client in self.clients)
        return self.wrong + [answer for answer in self.answers if answer != b"HTTP/1.1 200"]


def records(text):
    """The records of a log in JSON; lines that are not JSON fail."""
    return [json.loads(line) for line in text.splitlines()]


def refused(*args, code=78, says, **settings):
    """Starts what must end at once with `code` and one last sentence with all of `says`; returns the log before it."""
    result = run(*args, timeout=20, **settings)
    *before, last = result.stderr.splitlines() or [""]
    assert result.returncode == code, result
    assert "panicked" not in result.stderr
    assert last.startswith("atrio: ")
    for words in [says] if isinstance(says, str) else says:
        assert words in last
    assert not [line for line in before if line.startswith("atrio: ")], "more than one last sentence"
    return "\n".join(before)


def stat(pid):
    """State and parent of a process, and None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else (fields[0], int(fields[1]))


def gone(*pids):
    """Waits for the end of processes."""
    eventually(lambda: not any(stat(pid) for pid in pids), what=f"the end of {pids}")


def named(server, name):
    """The pids of a server's processes of that name."""
    return [pid for pid, comm in server.children().items() if comm == name]


@contextmanager
def paused(*pids):
    """Processes that do nothing for a while: what they would accept waits in the kernel."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            eventually(lambda pid=pid: (stat(pid) or "T")[0] == "T", what=f"{pid} to stop")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def connect_to(server, worker):
    """A connection that this worker serves."""
    with paused(*(pid for pid in server.workers() if pid != worker)):
        connection = server.connect()
        assert connection.request().status == 200
    return connection


@contextmanager
def started_by(folder, script):
    """Servers and runs within are started by a script, in which BINARY stands for the binary."""
    wrapper, binary = folder / "start", harness.BINARY
    wrapper.write_text(script.replace("BINARY", binary))
    wrapper.chmod(0o755)
    harness.BINARY = str(wrapper)
    try:
        yield
    finally:
        harness.BINARY = binary


def started_by_shell(folder, redirection):
    """Servers and runs within have a redirection such as `>&-`."""
    return started_by(folder, f'#!/bin/sh\nexec "BINARY" "$@" {redirection}\n')


def crashes(server):
    """How many of its workers have ended unasked."""
    return server.metric(f'atrio_worker_restarts_total{{site="{server.sites.name}",reason="crashed"}}')


UNPRIVILEGED = """#!{python}
import ctypes, os, sys
DROP, OVERRIDE_ACCESS, SEARCH_ANYWHERE = 24, 1, 2
for capability in OVERRIDE_ACCESS, SEARCH_ANYWHERE:
    ctypes.CDLL(None).prctl(DROP, capability, 0, 0, 0)
os.execv("BINARY", ["BINARY", *sys.argv[1:]])
"""


def without_privilege(folder):
    """Servers and runs within obey the modes of files, even if root starts them."""
    if harness.IMAGE:
        return started_by(folder, '#!/bin/sh\nATRIO_TEST_OPTIONS=--cap-drop=ALL exec "BINARY" "$@"\n')
    return started_by(folder, UNPRIVILEGED.format(python=sys.executable))
