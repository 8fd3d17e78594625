"""The archive and its units on a host with systemd: one that is process 1 of a container."""

import json
import re
import socket

import pytest

from behaviour.support import Crowd, later
from harness import PATIENCE, eventually
from image.conftest import TARGET, Container, Image, debian_with, docker
from test_readme import README, SECTIONS

BOOT = """
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir /sys/fs/cgroup/init.scope || {
  echo 'systemd cannot boot: this container may not mount a cgroup2 of its own' >&2
  exit 1
}
exec /lib/systemd/systemd --log-target=console
"""
"""Whatever version of cgroups the engine has, systemd gets the second one."""
POWERS = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
SITE = """
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"VALUE {os.getuid()}".encode()]
"""


@pytest.fixture(scope="session")
def debian():
    return debian_with("systemd", "dbus", "zstd")


class Host(Container):
    """A running systemd. Its address is reached from here."""

    def __init__(self, debian, architecture):
        surroundings = ["--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--stop-signal", "RTMIN+3"]
        super().__init__(debian, architecture, *POWERS, *surroundings, command=("sh", "-c", BOOT))
        try:
            eventually(self.is_up, what="systemd to boot")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        self.address = (self.inspect(".NetworkSettings.IPAddress").strip('"'), 8080)

    def is_up(self):
        if not self.state("Running"):
            raise AssertionError("it has ended")
        return self.sh("systemctl is-system-running", check=False).stdout.strip() == "running"

    def sh(self, script, check=True, **options):
        return docker(
            "exec",
            *(["--interactive"] if "input" in options else []),
            self.name,
            "sh",
            "-c",
            script,
            check=check,
            **options,
        )

    def write(self, path, text):
        self.sh(f"mkdir -p $(dirname {path}) && cat >{path}", input=text)

    def show(self, name, unit="atrio.service"):
        return self.sh(f"systemctl show --value --property {name} {unit}").stdout.strip()

    def journal(self):
        return self.sh("journalctl --unit atrio.service --output cat").stdout

    def get(self, path="/"):
        """What the site says."""
        with socket.create_connection(self.address, PATIENCE) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], head
        return body.decode()

    def answer(self):
        """What SITE says, and the user that it runs as."""
        return self.get().split()

    def edit(self, *lines):
        """What `systemctl edit atrio.service` would write."""
        self.write("/etc/systemd/system/atrio.service.d/override.conf", "\n".join(["[Service]", *lines, ""]))


@pytest.fixture
def host(debian):
    """A host with the archive in /root and a site in /srv/atrio."""
    native = next(image for image in map(Image, ("amd64", "arm64")) if image.native)
    (archive,) = (TARGET / "dist").glob(f"atrio-*-{native.machine}.tar.zst")
    with Host(debian, native.architecture) as host:
        docker("cp", archive, f"{host.name}:/root/")
        host.write("/srv/atrio/root.py", SITE.replace("VALUE", "first"))
        host.version = re.fullmatch(rf"atrio-(.*)-{native.machine}\.tar\.zst", archive.name)[1]
        host.machine = native.machine
        yield host


def install(host, check=True):
    """Types what the README says."""
    (block,) = [text for language, text in SECTIONS["Without a container"] if language == "text"]
    commands = re.findall(r"(?m)^# (.*)$", block)
    assert commands[-1].startswith("systemctl enable --now")
    script = "\n".join(commands).replace("VERSION-x86_64", f"{host.version}-{host.machine}")
    return host.sh(f"set -e; cd /root\n{script}", check=check)


def test_installed_as_the_readme_says_it_serves_as_nobody_in_particular(host):
    install(host)
    said, user = host.answer()
    assert said == "first" and int(user) > 60000, "a user that systemd has made up"
    assert re.fullmatch(r"serving atrio on \[::\]:8080: \d+ workers?, 0 of \d+ threads busy", host.show("StatusText"))
    assert host.show("Type") == "notify-reload"
    host.sh("/opt/atrio/bin/atrio healthcheck")
    assert host.sh("systemctl is-system-running").stdout == "running\n"


def test_a_reload_ends_with_the_next_import_or_keeps_the_last(host):
    install(host)
    host.write("/srv/atrio/root.py", SITE.replace("VALUE", "second"))
    host.sh("systemctl reload atrio.service")
    assert host.answer()[0] == "second"
    host.write("/srv/atrio/root.py", "1 / 0")
    host.sh("systemctl reload atrio.service")
    assert host.answer()[0] == "second"
    assert "the last reload failed: /srv/atrio/root.py cannot be imported" in host.show("StatusText")
    assert host.show("ActiveState") == "active"


def test_a_restart_keeps_every_connection_waiting_and_a_stop_ends_with_0(host):
    install(host)
    crowd = Crowd(host.address)
    crowd.await_answers(100)
    for _ in range(3):
        host.sh("systemctl restart atrio.service")
        crowd.await_answers(len(crowd.answers) + 100)
    crowd.leaves.set()
    assert crowd.lost() == []
    host.sh("systemctl stop atrio.socket atrio.service")
    assert (host.show("Result"), host.show("ExecMainStatus"), host.show("ActiveState")) == ("success", "0", "inactive")


def test_a_connection_starts_a_service_that_was_stopped(host):
    install(host)
    host.sh("systemctl stop atrio.service")
    assert host.show("ActiveState") == "inactive"
    assert host.answer()[0] == "first"


def test_a_wrong_setting_is_told_in_the_journal_and_not_tried_again(host):
    host.write("/etc/atrio/atrio.env", "ATRIO_THREADS=many\n")
    assert install(host, check=False).returncode != 0
    assert (host.show("Result"), host.show("ExecMainStatus"), host.show("NRestarts")) == ("exit-code", "78", "0")
    assert "atrio: ATRIO_THREADS=many: not a whole number" in host.journal()


def test_its_exposure_is_what_the_readme_says_and_no_more_than_2(host):
    install(host)
    shown = host.sh("systemd-analyze security --no-pager atrio.service").stdout
    exposure = re.search(r"Overall exposure level for atrio.service: ([\d.]+)", shown)[1]
    assert float(exposure) <= 2.0, shown
    assert re.search(r"(?m)^\| `systemd-analyze security` \| ([\d.]+) of 10", README)[1] == exposure, shown


CONFINED = """
import ctypes, json, multiprocessing, os, socket, sqlite3, subprocess, sys, tempfile, threading

def tried(function, *args):
    try:
        return repr(function(*args))
    except OSError as error:
        return type(error).__name__

def write(path):
    with open(path, "w") as file:
        return file.write("x")

def database():
    with sqlite3.connect(os.environ["STATE_DIRECTORY"] + "/site.db") as connection:
        connection.execute("create table if not exists visits (at)")
        return connection.execute("insert into visits values (1)").rowcount

def callback():
    called = []
    ctypes.CFUNCTYPE(None)(lambda: called.append(1))()
    return called

def connection():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        return socket.getaddrinfo("localhost", 80)[0][4][0] in ("127.0.0.1", "::1")

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    said = {
        "state": tried(database),
        "cache": tried(write, os.environ["CACHE_DIRECTORY"] + "/file"),
        "temporary": tried(lambda: tempfile.NamedTemporaryFile().write(b"x")),
        "shared": tried(lambda: multiprocessing.get_context("fork").Lock().acquire()),
        "program": tried(lambda: subprocess.check_output(["/bin/echo", "x"])),
        "interpreter": tried(lambda: subprocess.check_output([sys.executable, "-c", "print(1)"])),
        "callback": tried(callback),
        "connection": tried(connection),
        "numbers": tried(lambda: "btime" in open("/proc/stat").read()),
        "site": tried(write, "/srv/atrio/file"),
        "system": tried(write, "/etc/file"),
        "own": tried(write, "/opt/atrio/bin/atrio"),
        "owner": tried(os.chown, os.environ["CACHE_DIRECTORY"], 0, 0),
        "priority": tried(os.nice, -1),
        "manager": tried(os.kill, 1, 0),
        "others": tried(lambda: os.path.exists("/proc/1")),
        "raw": tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    }
    return [json.dumps(said).encode()]
"""


def test_a_site_works_within_its_confines_and_is_told_what_it_may_not(host):
    host.write("/srv/atrio/root.py", CONFINED)
    install(host)
    assert json.loads(host.get()) == {
        "state": "1",
        "cache": "1",
        "temporary": "1",
        "shared": "True",
        "program": "b'x\\n'",
        "interpreter": "b'1\\n'",
        "callback": "[1]",
        "connection": "True",
        "numbers": "True",
        "site": "OSError",
        "system": "OSError",
        "own": "OSError",
        "owner": "PermissionError",
        "priority": "PermissionError",
        "manager": "PermissionError",
        "others": "False",
        "raw": "OSError",
    }
    assert host.show("NRestarts") == "0"


def test_a_supervisor_that_hangs_is_started_anew(host):
    host.edit("WatchdogSec=2s")
    install(host)
    host.sh("kill -STOP $(systemctl show --value --property MainPID atrio.service)")
    eventually(lambda: host.show("NRestarts") == "1", what="a restart")
    assert host.answer()[0] == "first"


STUCK = """
import ctypes

def application(environ, start_response):
    if environ["PATH_INFO"] == "/stick":
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the GIL.
    start_response("200 OK", [])
    return [b"first"]
"""


def test_a_site_that_keeps_the_gil_is_started_anew(host):
    host.edit("WatchdogSec=4s")
    host.write("/etc/atrio/atrio.env", "ATRIO_WORKERS=1\n")
    host.write("/srv/atrio/root.py", STUCK)
    install(host)
    later(host.get, "/stick")
    eventually(lambda: host.show("NRestarts") == "1", what="a restart")
    assert "watchdog is not fed" in host.journal()
    assert host.get() == "first"


def test_a_long_import_may_take_longer_than_systemd_waits_by_itself(host):
    host.edit("TimeoutStartSec=8s")
    host.write("/srv/atrio/root.py", "import time\ntime.sleep(12)\n" + SITE.replace("VALUE", "first"))
    install(host)
    assert (host.answer()[0], host.show("NRestarts")) == ("first", "0")


def test_a_drain_may_take_longer_than_systemd_waits_by_itself(host):
    host.edit("TimeoutStopSec=2s", "WatchdogSec=1s")
    host.write(
        "/srv/atrio/root.py",
        "import time\n" + SITE.replace("VALUE", "first").replace("    return", "    time.sleep(6)\n    return"),
    )
    install(host)
    slow = later(host.answer)
    eventually(lambda: ", 1 of " in host.show("StatusText"), what="a request that runs")
    host.sh("systemctl stop atrio.socket atrio.service")
    assert slow.result(20)[0] == "first"
    assert (host.show("Result"), host.show("ExecMainStatus")) == ("success", "0")
