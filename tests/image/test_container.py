"""The image as `docker run` runs it, natively and, for arm64, emulated."""

import http.client
import os
import threading
from pathlib import Path
from signal import SIGKILL

import pytest

from behaviour.support import site
from harness import ROOT, eventually
from image.conftest import docker

LOCKED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
"""The strictest surroundings that it promises to work in."""


def readable(folder):
    """A folder and what is in it, for every user: pytest's are its own."""
    for path in (folder, *folder.rglob("*"), *folder.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    return folder


def stop(container):
    docker("stop", "--time", "60", container.name)
    return container.state("ExitCode")


def test_the_sample_site_is_served_from_a_locked_container(image):
    with image.container(*LOCKED, sites=readable(ROOT / "sites")) as container:
        reply = container.ready().get()
        assert reply.status == 200 and reply.text.startswith("<!doctype html>")
        assert container.get("/upload", method="POST", body=bytes(1_000_000)).status == 200, (
            "a body larger than memory's share"
        )
        assert stop(container) == 0
        assert "Traceback" not in container.log() and '"ERROR"' not in container.log()


def test_any_user_will_do(image, tmp_path):
    folder = readable(site(tmp_path / "site", "[os.getuid(), os.getgid()]"))
    for options, expected in (
        ([], "[65532, 65532]"),
        (["--user", "1234:5678"], "[1234, 5678]"),
        (["--user", "0"], "[0, 0]"),
    ):
        with image.container(*LOCKED, *options, sites=folder) as container:
            assert container.ready().get().text == expected


def test_no_site_and_one_that_cannot_be_read_are_one_message(image, tmp_path):
    nothing = image.run(check=False)
    assert nothing.returncode == 78
    assert nothing.stderr.startswith("atrio: no root.py in /sites") and nothing.stderr.count("\n") == 1
    folder = site(tmp_path / "site")
    readable(tmp_path)
    folder.chmod(0)
    refused = image.run(options=["--volume", f"{folder}:/sites:ro"], check=False)
    folder.chmod(0o755)
    assert refused.returncode == 77
    assert "/sites" in refused.stderr and "cannot be read" in refused.stderr and refused.stderr.count("\n") == 1


MODULES = """
import bz2, ctypes, decimal, hashlib, lzma, mimetypes, socket, sqlite3, ssl, sys, sysconfig, uuid, zlib, zoneinfo
from datetime import datetime
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
import _sha2
assert _sha2.sha512(b"").hexdigest().startswith("cf83e135")
assert hashlib.md5(b"").hexdigest() and hashlib.blake2b(b"").hexdigest() and hashlib.scrypt(b"", salt=b"", n=2, r=1, p=1)
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert sqlite3.connect(":memory:").execute("select json_extract('[1]', '$[0]')").fetchone() == (1,)
assert ctypes.CDLL(None).strlen(b"four") == 4
called = []
ctypes.CFUNCTYPE(None)(lambda: called.append(1))()
assert called
assert datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Rome")).utcoffset().seconds == 7200
assert mimetypes.guess_type("a.woff2")[0] == "font/woff2"
assert socket.getservbyname("https") == 443
assert "é".encode("cp850") == b"\\x82" and "語".encode("shift_jis")
assert bz2.decompress(bz2.compress(b"x")) == lzma.decompress(lzma.compress(b"x")) == b"x"
assert str(decimal.Decimal(1) / 3).startswith("0.333")
assert sys.executable == "/usr/bin/atrio" and sys.prefix == "/usr"
assert sysconfig.get_platform() == "linux-MACHINE", sysconfig.get_platform()
assert sysconfig.get_config_var("SOABI") == "cpython-313-MACHINE-linux-gnu"
import subprocess
assert subprocess.check_output(["python3", "-c", "print(6 * 7)"]) == b"42\\n"
print("done")
"""


def test_the_standard_library_works(image):
    assert image.run("python", "-c", MODULES.replace("MACHINE", image.machine), options=LOCKED).stdout == "done\n"


def test_every_module_of_the_standard_library_can_be_imported(image):
    """All that is in the image: what wants a library that is not there must not be."""
    code = (
        "import importlib, pathlib, sys, warnings; warnings.simplefilter('ignore'); top = pathlib.Path(sys.prefix, 'lib/python3.13')\n"
        "odd = {'antigravity', 'this', '__phello__', 'idlelib'}\n"
        "names = {p.name.split('.')[0] for p in [*top.glob('*.py'), *top.glob('lib-dynload/*')]} - odd\n"
        "for name in sorted(names | {p.parent.name for p in top.glob('*/__init__.py')} - odd): importlib.import_module(name)\n"
        "print(len(names))"
    )
    assert int(image.run("python", "-c", code).stdout) > 150


WHEELS_WORK = """
import lxml.etree, numpy, psycopg2
assert lxml.etree.fromstring("<a><b/></a>").xpath("count(//b)") == 1
assert (numpy.arange(9).reshape(3, 3) @ numpy.eye(3)).sum() == 36
assert numpy.linalg.inv(numpy.eye(3) * 2)[0, 0] == 0.5
try:
    psycopg2.connect("host=127.0.0.1 port=1 sslmode=require")
except psycopg2.OperationalError as error:
    print("refused" in str(error))
"""


def test_official_wheels_are_chosen_and_work(image, wheels):
    options = [*LOCKED, "--volume", f"{wheels}:/packages:ro", "--env", "PYTHONPATH=/packages"]
    assert image.run("python", "-c", WHEELS_WORK, options=options).stdout == "True\n"
    assert {path.name.split(".")[1] for path in wheels.glob("psycopg2/*.so")} == {
        f"cpython-313-{image.machine}-linux-gnu"
    }


def test_a_virtual_environment_has_pip(image):
    code = "import subprocess; print(subprocess.check_output(['/tmp/v/bin/pip', '--version'], text=True))"
    made = "import venv; venv.create('/tmp/v', with_pip=True)"
    options = ["--read-only", "--tmpfs", "/tmp:exec,mode=1777", "--cap-drop", "ALL"]
    assert (
        "/tmp/v/lib/python3.13/site-packages/pip"
        in image.run("python", "-c", f"{made}\n{code}", options=options).stdout
    )


PROCESSES = "[open(f'/proc/{p}/stat').read().rsplit(') ', 1)[1][0] for p in os.listdir('/proc') if p.isdigit()]"
ORPHAN = "subprocess.run([sys.executable, '-c', 'import os, time\\nif os.fork() == 0: time.sleep(0.2)'])"


def test_as_process_1_it_reaps_what_a_site_leaves(image, tmp_path):
    value = f"[{ORPHAN} if environ['PATH_INFO'] == '/leave' else None, {PROCESSES}][1]"
    with image.container(sites=readable(site(tmp_path / "site", value, "import subprocess"))) as container:
        before = container.ready().get().text.count('"')
        for _ in range(3):
            container.get("/leave")
        eventually(
            lambda: "Z" not in (now := container.get().text) and now.count('"') == before, what="the end of the orphans"
        )
        assert stop(container) == 0


def test_its_workers_are_as_many_as_the_processors_it_may_use(image, tmp_path):
    with image.container("--cpus", "1", sites=readable(site(tmp_path / "site"))) as container:
        container.ready()
        assert '"workers":1,' in container.log()


def test_docker_finds_it_healthy(image):
    with image.container("--health-interval", "1s", sites=readable(ROOT / "sites")) as container:
        container.ready()
        eventually(lambda: container.inspect(".State.Health.Status") == '"healthy"', container.patience, "health")


def test_the_cpus_that_docker_grants_make_the_number_of_workers(image):
    with image.container("--cpus", "0.5", sites=readable(ROOT / "sites")) as container:
        container.ready()
        assert "1 worker: the cgroup grants 0.5 of" in container.log()


def test_the_site_runs_as_another_user_than_root_if_root_may_say_so(image, tmp_path):
    folder = readable(site(tmp_path / "site", "[os.getuid(), os.getgid()]"))
    with image.container("--user", "0", "--env", "ATRIO_USER=nobody", sites=folder) as container:
        assert container.ready().get().text == "[65534, 65534]"
    refused = image.run(options=["--volume", f"{folder}:/sites:ro", "--env", "ATRIO_USER=nobody"], check=False)
    assert refused.returncode == 77
    assert "ATRIO_USER=nobody" in refused.stderr and refused.stderr.count("\n") == 1


def test_docker_stop_under_load_loses_no_request(image, tmp_path):
    """Visitors come until they are refused. qemu has no SO_BINDTOIFINDEX: those of an emulated container come, as those of a load
    balancer that has heard of it, until half of the drain's delay has passed."""
    folder = readable(site(tmp_path / "site", "time.sleep(0.05) or 'done'", "import time"))
    with image.container("--env", "ATRIO_DRAIN_DELAY=1s", sites=folder) as container:
        address = container.ready().inspect(".NetworkSettings.IPAddress").strip('"')
        served, wrong, heard = [], [], threading.Event()

        def visit():
            while not heard.is_set():
                # Not through the published port, whose proxy accepts what it cannot hand on.
                connection = http.client.HTTPConnection(address, 8080, timeout=container.patience)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
                except OSError as error:
                    # The container's network is gone.
                    wrong.extend([error] if container.state("Running") else [])
                    return
                try:
                    connection.request("GET", "/", headers={"Connection": "close"})
                    response = connection.getresponse()
                    (served if (response.status, response.read()) == (200, b'"done"') else wrong).append(
                        response.status
                    )
                except (OSError, http.client.HTTPException) as error:
                    wrong.append(error)
                finally:
                    connection.close()

        visitors = [threading.Thread(target=visit) for _ in range(8)]
        for visitor in visitors:
            visitor.start()
        eventually(lambda: len(served) > 20, container.patience, "the load")
        if not image.native:
            threading.Timer(0.5, heard.set).start()
        assert stop(container) == 0
        for visitor in visitors:
            visitor.join(container.patience)
        assert not wrong and not any(visitor.is_alive() for visitor in visitors)


def test_docker_kill_leaves_no_process_and_a_restart_serves(image, tmp_path):
    with image.container("--publish", "127.0.0.1::8080", sites=readable(site(tmp_path / "site"))) as container:
        container.ready()
        processes = {line.split()[1] for line in docker("top", container.name).stdout.splitlines()[1:]}
        assert len(processes) >= 3
        docker("kill", container.name)
        assert container.wait() == 128 + SIGKILL
        eventually(
            lambda: not [pid for pid in processes if Path(f"/proc/{pid}").exists()], what="the end of all processes"
        )
        docker("start", container.name)
        assert container.ready().get().text == '"here"'


@pytest.mark.parametrize("arguments", [["--version"], ["pip", "--version"], ["--help"], ["config"]])
def test_commands_work(image, arguments):
    assert image.run(*arguments, options=LOCKED).stdout
