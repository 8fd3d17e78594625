"""What the appliance may cost: time to start, and memory."""

import io
import re
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from harness import ROOT, eventually
from image.conftest import Container, Image, docker

START_UP = 0.150
"""Seconds from `docker run` to the first answer, above `docker run` of a program that does nothing."""
MEMORY = 30 * 2**20
ROUNDS = 5


@pytest.fixture
def nothing(tmp_path):
    """An image whose entry point is true."""
    (tmp_path / "true.c").write_text("int main(void) { return 0; }")
    subprocess.run(["cc", "-static", "-Os", "-o", tmp_path / "true", tmp_path / "true.c"], check=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(tmp_path / "true", "true")
    command = ["docker", "import", "--change", 'ENTRYPOINT ["/true"]', "-"]
    image = subprocess.run(command, input=archive.getvalue(), capture_output=True, check=True).stdout.decode().strip()
    yield image
    docker("rmi", "--force", image)


@pytest.fixture
def native():
    found = next(image for image in map(Image, ("amd64", "arm64")) if image.native)
    return found


def test_the_first_answer_comes_soon_after_docker_run(native, nothing):
    """By the fastest of a few runs in turn; other tests run at the same time."""

    def first_answer():
        began = time.monotonic()
        with Container(native.name, native.architecture, sites=ROOT / "sites") as container:
            address = container.port(8080)
            while b"200 OK" not in answer(address):
                pass
            return time.monotonic() - began

    def answer(port):
        return subprocess.run(["curl", "-si", f"127.0.0.1:{port}/"], capture_output=True, check=False).stdout

    def no_answer():
        began = time.monotonic()
        with Container(nothing, native.architecture):
            return time.monotonic() - began

    served, idle = [], []

    def soon():
        served.append(first_answer())
        idle.append(no_answer())
        return len(served) >= ROUNDS and min(served) - min(idle) <= START_UP

    eventually(soon, what=f"a start within {START_UP} s; with {served}, without {idle}")


def test_an_idle_worker_and_its_supervisor_are_small(native):
    with Container(native.name, native.architecture, "--env", "ATRIO_WORKERS=1", sites=ROOT / "sites") as container:
        container.ready()
        assert container.get().status == 200
        pids = [line.split()[1] for line in docker("top", container.name).stdout.splitlines()[1:]]
        memory = {}
        for pid in pids:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            memory[Path(f"/proc/{pid}/comm").read_text().strip()] = (
                int(re.search(r"(?m)^Pss: +(\d+) kB", rollup)[1]) * 1024
            )
    assert {"atrio", "atrio-worker"} <= set(memory)
    assert sum(memory.values()) <= MEMORY, memory
