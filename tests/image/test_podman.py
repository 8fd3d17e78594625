"""config/podman: what podman's generator makes of it for systemd."""

import re
import shlex
import subprocess

import pytest

from harness import ROOT, run
from image.conftest import debian_with
from manifests import seconds

FILE = ROOT / "config/podman/atrio.container"
SCRIPT = """
generators=/usr/lib/systemd
$generators/system-generators/podman-system-generator /made /made /made || exit
systemd-analyze verify /made/atrio.service || exit
cp /etc/containers/systemd/atrio.container /etc/containers/systemd/users/
$generators/user-generators/podman-user-generator --user --dryrun >/made/of-a-user || exit
cat /made/atrio.service
grep -c '^ExecStart=' /made/of-a-user >&2
"""


@pytest.fixture(scope="session")
def made():
    """What the generator of a real podman has said, and the unit that it has made."""
    name = debian_with("podman", "systemd")
    folders = ["--tmpfs", "/made", "--tmpfs", "/etc/containers/systemd/users"]
    command = ["docker", "run", "--rm", *folders, "--volume", f"{FILE}:/etc/containers/systemd/{FILE.name}:ro", name]
    return subprocess.run([*command, "sh", "-c", SCRIPT], capture_output=True, text=True, check=False)


def words(made):
    """Of the command that runs the container."""
    return shlex.split(re.search(r"(?m)^ExecStart=(.*)$", made.stdout)[1])


def value(made, name):
    return re.findall(rf"(?m)^{name}=(.*)$", made.stdout)[-1]


def test_the_generator_and_systemd_take_it_without_a_warning(made):
    assert made.returncode == 0, made
    said = [line for line in made.stderr.splitlines() if "Loading source unit file" not in line]
    assert said == ["1"], "nothing but the one command for a user's own systemd"


def test_an_unknown_key_would_be_seen():
    name = debian_with("podman", "systemd")
    script = "mkdir /units; sed 's/^ReadOnly=/ReadOnlyRoot=/' /unit >/units/atrio.container; QUADLET_UNIT_DIRS=/units "
    script += "/usr/lib/systemd/system-generators/podman-system-generator --dryrun"
    command = ["docker", "run", "--rm", "--volume", f"{FILE}:/unit:ro", name, "sh", "-c", script]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "unsupported key 'ReadOnlyRoot'" in refused.stderr


def test_the_container_is_locked_and_speaks_with_systemd_itself(made):
    command = words(made)
    for flag in ("--read-only", "--security-opt=no-new-privileges", "--sdnotify=container"):
        assert flag in command
    assert command[command.index("--cap-drop") + 1] == "all"
    assert command[command.index("--health-cmd") + 1] == '["atrio", "healthcheck"]'
    published = [command[at + 1] for at, word in enumerate(command) if word == "--publish"]
    assert published == ["8080:8080", "127.0.0.1:9090:9090"]
    assert command[-1] == "localhost/atrio:latest" and not [
        word for word in command if "io.containers.autoupdate" in word
    ]
    assert (value(made, "Type"), value(made, "NotifyAccess")) == ("notify", "all")


def test_its_variables_are_settings_and_its_times_fit(made):
    command = words(made)
    given = dict(command[at + 1].split("=", 1) for at, word in enumerate(command) if word == "--env")
    assert int(given.pop("WATCHDOG_USEC")) == seconds(value(made, "WatchdogSec")) * 1e6
    assert run("config", **given).returncode == 0
    patience = int(command[command.index("--stop-timeout") + 1])
    assert seconds(given["ATRIO_DRAIN_TIMEOUT"]) + 17 < patience < seconds(value(made, "TimeoutStopSec"))
