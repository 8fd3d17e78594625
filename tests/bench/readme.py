"""The figures that the README shows: those of one run, with the machine, the day and the versions."""

import os
import platform
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness import BINARY, ROOT

from .servers import SERVERS, THREADS

MARKS = ["<!-- performance -->\n", "<!-- /performance -->\n"]


def write(path, servers, rounds, seconds, told):
    """Puts what was told between MARKS."""
    readme = Path(path).read_text()
    before, rest = readme.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    block = "\n\n".join([origin(servers, rounds, seconds), *told])
    Path(path).write_text(f"{before}{MARKS[0]}{block}\n{MARKS[1]}{after}")


def origin(servers, rounds, seconds):
    versions = ", ".join([atrio(), *filter(None, (SERVERS[name].version() for name in servers))])
    return (
        f"{time.strftime('%Y-%m-%d')}, {machine()}, CPython {platform.python_version()}: {versions}. One worker, {THREADS} threads,"
        f" on one processor, the load on another; by turns, the medians of {rounds} round{'s' * (rounds > 1)} of {seconds} s."
    )


def machine():
    model = re.search(r"(?m)^model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} × {model[1] if model else platform.machine()}, Linux {platform.release()}"


def atrio():
    version = subprocess.check_output([BINARY, "--version"], text=True).split()[1]
    describe = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.CalledProcessError):
        version += f" ({subprocess.check_output(describe, text=True, stderr=subprocess.DEVNULL).strip()})"
    return f"Atrio {version}"
