"""Starts the real binary for black-box tests and speaks raw HTTP to it.

Nothing here sleeps to synchronise: an instance is ready when it says READY=1 on its
NOTIFY_SOCKET, and that same message tells the ports that the kernel chose.
"""

import fcntl
import functools
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from signal import SIGKILL, SIGTERM

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SITES = TESTS / "sites"
BINARY = os.environ.get("ATRIO_BINARY", str(ROOT / "target/release/atrio"))
IMAGE = os.environ.get("ATRIO_TEST_IMAGE")
"""The image that is tested, if it is not a binary: BINARY is tests/image/atrio then, which runs it."""
PATIENCE = 60.0
"""Upper bound, in seconds, of every wait for the server. A healthy one answers in milliseconds."""


def clean_environment(**extra):
    """The caller's environment without what would configure Atrio. A variable that is None is not set."""
    names = ("ATRIO_", "OTEL_", "PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PYTHONPATH", "VIRTUAL_ENV")
    names += ("NOTIFY_SOCKET",)
    kept = {k: v for k, v in os.environ.items() if k == "ATRIO_TEST_IMAGE" or not k.startswith(names)}
    return {k: str(v) for k, v in (kept | extra).items() if v is not None}


class Atrio:
    """One running instance. A context manager: leaving it stops the server and reads its exit code."""

    def __init__(self, sites, *args, cwd=None, ready=True, **settings):
        """`sites` is a folder, or the name of one under tests/sites. `settings` are ATRIO_* variables without
        the prefix (`threads=2`) or whole names in capitals (`PYTHONPATH=...`); None unsets what is set here."""
        self.sites = SITES / sites if isinstance(sites, str) and "/" not in sites else Path(sites)
        self.folder = Path(tempfile.mkdtemp(prefix="atrio-test-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.log_path, self.access_path = self.folder / "stderr", self.folder / "stdout"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify"))
        # Whoever the instance runs as has to reach it.
        self.folder.chmod(0o755)
        (self.folder / "notify").chmod(0o777)
        variables = {"ATRIO_LISTEN": "127.0.0.1:0", "ATRIO_ADMIN_LISTEN": "127.0.0.1:0", "ATRIO_WORKERS": "1"}
        variables |= {
            "ATRIO_SITES": self.sites,
            "NOTIFY_SOCKET": self.folder / "notify",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        variables |= {k if k.isupper() else f"ATRIO_{k.upper()}": v for k, v in settings.items()}
        variables |= {"ATRIO_TEST_CONTAINER": self.folder.name} if IMAGE else {}
        self.port = self.admin_port = None
        self.said = []
        """Every line that the instance has sent to its NOTIFY_SOCKET."""
        with open(self.log_path, "wb") as err, open(self.access_path, "wb") as out:
            self.process = subprocess.Popen(
                [BINARY, *map(str, args)],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=clean_environment(**variables),
            )
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.stop(SIGKILL)
                raise

    @functools.cached_property
    def pid(self):
        """The pid of the supervisor; None if its container has ended before anybody asked."""
        if not IMAGE:
            return self.process.pid
        inspect = ["docker", "inspect", "--format", "{{.State.Pid}}", self.folder.name]

        def known():
            shown = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.strip()
            return shown if shown not in ("", "0") else self.process.poll() is not None and "ended"

        found = eventually(known, what="a process in the container")
        return None if found == "ended" else int(found)

    def hear(self, word, patience=PATIENCE):
        """Waits until the instance says `word` (a regular expression) on its NOTIFY_SOCKET; returns the match."""
        deadline = time.monotonic() + patience
        while True:
            self.notify.settimeout(0.2)
            try:
                message = self.notify.recv(65536).decode()
                self.said += message.splitlines()
                for line in message.splitlines():
                    self.learn(line)
                if match := re.search(word, message):
                    return match
            except TimeoutError:
                if self.process.poll() is not None:
                    raise AssertionError(f"exited {self.process.returncode} before {word!r}:\n{self.log()}") from None
                if time.monotonic() > deadline:
                    raise AssertionError(f"no {word!r} in {patience} s; said {self.said}:\n{self.log()}") from None

    def learn(self, line):
        name, _, value = line.partition("=")
        if name == "X_ATRIO_LISTEN" and value:
            self.listen = value.split(",")
            ports = [a.rpartition(":")[2] for a in self.listen if not a.startswith("unix:")]
            self.port = int(ports[0]) if ports else None
        elif name == "X_ATRIO_ADMIN_LISTEN" and value and not value.startswith("unix:"):
            self.admin_port = int(value.split(",")[0].rpartition(":")[2])

    def wait_ready(self):
        self.hear(r"^READY=1$|\nREADY=1(\n|$)|^READY=1\n")

    def connect(self, timeout=20):
        return Connection(self.port, timeout)

    def get(self, path="/", headers=(), timeout=20, method="GET", body=b""):
        """One request on a connection of its own."""
        with self.connect(timeout) as c:
            return c.request(path, headers, method, body)

    def admin(self, path, headers=(), timeout=20):
        with Connection(self.admin_port, timeout) as c:
            return c.request(path, headers)

    def metric(self, name):
        """The sum of the samples whose name and labels start with `name`."""
        lines = self.admin("/metrics").text.splitlines()
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(re.escape(name) + r"[{ ]", line) or line.startswith(name + ",")
        ]
        return sum(values) if values else None

    def log(self):
        """What it has written to stderr so far."""
        return self.log_path.read_text(errors="replace")

    def access_log(self):
        """What it has written to stdout so far."""
        return self.access_path.read_text(errors="replace")

    def wait_log(self, pattern, patience=PATIENCE, where="log"):
        """Waits for a regular expression in the log (`where="access_log"`: in the access log)."""
        return eventually(
            lambda: re.search(pattern, getattr(self, where)(), re.DOTALL), patience, f"{pattern!r} in the {where}"
        )

    def children(self):
        """{pid: command name} of all its descendants."""
        return {} if self.pid is None else descendants(self.pid)

    def workers(self):
        """The pids of its workers."""
        return [pid for pid, name in self.children().items() if name.startswith("atrio-worker")]

    def signal(self, number):
        assert self.pid is not None, f"it has ended:\n{self.log()}"
        os.kill(self.pid, number)

    def wait(self, patience=PATIENCE):
        """Its exit code, once it has ended."""
        return self.process.wait(patience)

    def stop(self, number=SIGTERM, patience=PATIENCE):
        """Ends it, and whatever it may have left behind."""
        left = self.children()
        if self.process.poll() is None and self.pid is not None:
            try:
                self.signal(number)
            except ProcessLookupError:
                pass  # Its container is about to end.
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.notify.close()
        for pid in left:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                pass
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Reply:
    """A response as it was on the wire."""

    def __init__(self, head, body, complete):
        lines = head.decode("latin-1").split("\r\n")
        self.version, _, rest = lines[0].partition(" ")
        code, _, self.reason = rest.partition(" ")
        self.status = int(code)
        self.headers = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines[1:] if line)]
        self.body, self.complete = body, complete
        """`complete`: the framing ended as announced (Content-Length reached, last chunk seen)."""

    def header(self, name, default=None):
        return next((v for k, v in self.headers if k.lower() == name.lower()), default)

    def all(self, name):
        return [v for k, v in self.headers if k.lower() == name.lower()]

    @property
    def text(self):
        return self.body.decode()

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.headers} {self.body[:200]!r}{'' if self.complete else ' CUT'}>"


class Connection:
    """A raw connection; `send` writes bytes as they are, `reply` reads one response."""

    def __init__(self, address, timeout=20):
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), timeout)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def request(self, path="/", headers=(), method="GET", body=b"", version="HTTP/1.1"):
        lines = [f"{method} {path} {version}", "Host: test", *(f"{k}: {v}" for k, v in headers)]
        if body and not any(k.lower() in ("content-length", "transfer-encoding") for k, _ in headers):
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return self.reply(method)

    def more(self):
        """Reads once; False at the end of the stream."""
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.more():
                raise EOFError(f"closed after {self.buffer!r}")
        data, self.buffer = self.buffer.split(mark, 1)
        return data

    def exactly(self, size):
        while len(self.buffer) < size and self.more():
            pass
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def head(self):
        """The head of the next response, without its body."""
        return Reply(self.until(b"\r\n\r\n"), b"", True)

    def reply(self, method="GET", interim=False):
        """One whole response; 1xx responses are passed over unless `interim`."""
        head = self.until(b"\r\n\r\n")
        reply = Reply(head, b"", True)
        if 100 <= reply.status < 200:
            return reply if interim else self.reply(method)
        if method == "HEAD" or reply.status in (204, 304):
            return reply
        if "chunked" in reply.header("transfer-encoding", ""):
            try:
                while size := int(self.until(b"\r\n").split(b";")[0], 16):
                    data = self.exactly(size)
                    reply.body += data
                    if len(data) < size or self.exactly(2) != b"\r\n":
                        raise EOFError
                while self.until(b"\r\n"):
                    pass
            except (EOFError, ConnectionResetError):
                reply.complete = False
        elif (length := reply.header("content-length")) is not None:
            try:
                reply.body = self.exactly(int(length))
            except ConnectionResetError:
                pass
            reply.complete = len(reply.body) == int(length)
        else:
            try:
                while self.more():
                    pass
            except ConnectionResetError:
                reply.complete = False
            reply.body, self.buffer = self.buffer, b""
        return reply

    def closed(self):
        """True when the server closes without sending anything more."""
        try:
            return not self.buffer and not self.more()
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def descendants(pid):
    """{pid: command name} of all processes below one."""
    parents, names = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = stat[stat.rindex(")") + 2 :].split()
            if fields[0] != "Z":
                parents[int(entry)] = int(fields[1])
                names[int(entry)] = stat[stat.index("(") + 1 : stat.rindex(")")]
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        for child, above in parents.items():
            if above == parent:
                found[child] = names[child]
                todo.append(child)
    return found


def free_port():
    """Below those that the kernel gives to clients: one of them could be given to the very connection that asks for a server."""
    while True:
        port = random.randrange(10_000, 32_000)
        try:
            socket.create_server(("0.0.0.0", port)).close()
        except OSError:
            continue
        return port


def eventually(check, patience=PATIENCE, what="the condition"):
    """Polls `check` until it returns something true, and returns that."""
    deadline = time.monotonic() + patience
    while True:
        if found := check():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.02)


def build_once(folder, build):
    """A folder that `build(folder)` makes, once for all test processes, and anew if that was not finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / "complete"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            done.touch()
    return folder


def run(*args, sites=None, timeout=PATIENCE, cwd=None, input=None, **settings):
    """Runs the binary to its end; returns the CompletedProcess with text output."""
    variables = {"ATRIO_LISTEN": "127.0.0.1:0", "ATRIO_ADMIN_LISTEN": "127.0.0.1:0", "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= {k if k.isupper() else f"ATRIO_{k.upper()}": v for k, v in settings.items()}
    if sites is not None:
        variables["ATRIO_SITES"] = SITES / sites if isinstance(sites, str) and "/" not in sites else sites
    return subprocess.run(
        [BINARY, *map(str, args)],
        env=clean_environment(**variables),
        cwd=cwd,
        input=input,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
