"""`atrio healthcheck`: what a container's health check runs."""

import socket
import time

import pytest

from behaviour.support import later, paused, site, stat
from behaviour.test_config import free_port
from harness import Atrio, Connection, eventually, run


def check(code, *args, says=(), silent=False, **given):
    """Its exit code, and its one line."""
    result = run("healthcheck", *args, timeout=10, **given)
    assert (result.returncode, result.stdout) == (code, ""), result
    lines = result.stderr.splitlines()
    assert len(lines) == (0 if silent else 1) and all(line.startswith("atrio: ") for line in lines), result
    for words in says:
        assert words in result.stderr


ADDRESSES = {
    "loopback": "127.0.0.1:{port}",
    "all": "0.0.0.0:{port}",
    "all of IPv6": "[::]:{port}",
    "unix": "unix:{folder}/admin",
    "several": "fd:none,127.0.0.1:{port}",
}


@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_ready_instance_is_healthy(tmp_path, kind):
    address = ADDRESSES[kind].format(port=free_port(), folder=tmp_path)
    with Atrio(site(tmp_path / "site"), admin_listen=address.removeprefix("fd:none,")):
        check(0, admin_listen=address, silent=True)


def test_flags_count_as_for_the_server(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Atrio(site(tmp_path), "--admin-listen", address, admin_listen=None):
        check(0, "--admin-listen", address, silent=True)
        check(0, "--admin-listen", address, silent=True, sites=tmp_path, admin_listen="127.0.0.1:1")


def test_an_instance_that_starts_or_drains_is_not_healthy(tmp_path):
    go, address = tmp_path / "go", f"127.0.0.1:{free_port()}"
    top = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    folder = site(tmp_path / "site", top=top)
    with Atrio(folder, ready=False, admin_listen=address, drain_delay="60s") as server:

        def listens():
            try:
                return Connection(int(address.rpartition(":")[2])).close() or True
            except ConnectionRefusedError:
                return False

        eventually(listens)
        check(1, admin_listen=address, says=["not ready: site failed"])
        go.touch()
        server.wait_ready()
        check(0, admin_listen=address, silent=True)
        server.signal(15)
        server.hear("STOPPING=1")
        check(1, admin_listen=address, says=["not ready: not-draining failed"])
        server.signal(15)
        server.wait(10)
    check(1, admin_listen=address, says=[address, "does not answer", "refused"])


def test_without_admin_listener_a_connection_has_to_do(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Atrio(site(tmp_path), listen=address, admin_listen="off"):
        result = run("healthcheck", listen=address, admin_listen="off")
        assert result.returncode == 0 and "only whether" in result.stderr and address in result.stderr
    result = run("healthcheck", listen=address, admin_listen="off")
    assert result.returncode == 1 and "does not accept connections" in result.stderr.splitlines()[-1]
    check(1, listen="fd:web", admin_listen="off", says=["no address can be asked"])


def test_an_instance_that_hangs_is_not_waited_for(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Atrio(site(tmp_path), admin_listen=address) as server, paused(server.pid):
        began = time.monotonic()
        check(1, admin_listen=address, says=["does not answer", "more than 2 s"])
        assert 1.5 < time.monotonic() - began < 5


def test_somebody_else_who_answers_slowly_and_without_end_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            connection, _ = listener.accept()
            with connection:
                while True:
                    try:
                        connection.sendall(b"HTTP/1.0 200 OK\r\n")
                    except OSError:
                        return
                    time.sleep(0.1)

        dripping = later(drip)
        check(1, admin_listen=f"127.0.0.1:{listener.getsockname()[1]}", says=["more than 2 s"])
        dripping.result(10)


def test_somebody_else_who_answers_is_not_taken_for_atrio():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-Other\r\n")
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)

        greeting = later(greet)
        check(1, admin_listen=f"127.0.0.1:{listener.getsockname()[1]}", says=["not Atrio's", "SSH-2.0-Other"])
        greeting.result(10)


def test_wrong_settings_are_said_as_everywhere():
    check(78, threads="many", says=["ATRIO_THREADS=many"])


def test_it_does_not_disturb_the_instance(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with Atrio(site(tmp_path), admin_listen=address) as server:
        children = server.children()
        for _ in range(5):
            check(0, admin_listen=address, silent=True)
        assert server.children() == children and all(stat(pid) for pid in children)
        assert "WARN" not in server.log()
