"""The archive and its units on a host with systemd: one that is process 1 of a container."""

import fcntl
import re
import socket
import subprocess

import pytest

from behaviour.support import Crowd
from harness import PATIENCE, eventually
from image.conftest import TARGET, Container, Image, docker
from test_readme import SECTIONS

PACKAGES = ["systemd", "dbus", "zstd"]
DEBIAN = f"atrio-test:{'-'.join(PACKAGES)}"
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
    """An image of Debian with systemd, made once."""
    with open(TARGET / "systemd.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if docker("image", "inspect", DEBIAN, check=False).returncode != 0:
            make = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", "trixie", "-"]
            with subprocess.Popen(make, stdout=subprocess.PIPE) as root:
                docker("import", "--change", "ENV container=docker", "-", DEBIAN, stdin=root.stdout)
            assert root.returncode == 0
    return DEBIAN


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

    def answer(self):
        """What the site says, and the user that it runs as."""
        with socket.create_connection(self.address, PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], head
        return body.decode().split()


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
    assert host.show("StatusText") == "serving atrio on [::]:8080"
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
