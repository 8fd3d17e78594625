"""The end: what was accepted is finished, and nothing is left behind."""

import ctypes
import os
import socket
import stat as file_kind
import struct
import sys
from contextlib import ExitStack
from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from behaviour.support import Crowd, answer, gone, later, named, paused, site, started_by, started_by_shell
from harness import Atrio, Connection, eventually


def stopping(server, number=SIGTERM):
    server.signal(number)
    server.hear("STOPPING=1")


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_ends_an_idle_server_with_0_and_leaves_nothing(number):
    with Atrio("processes", workers=2) as server:
        children = server.children()
        stopping(server, number)
        assert server.wait(10) == 0
        gone(*children)
        assert "WARN" not in server.log() and "ERROR" not in server.log()


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_requests_under_way_and_in_the_queue_are_finished(gates, number):
    with Atrio("gates", threads=1, GATES=gates.folder) as server:
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        queued = [later(server.get, "/stream/b") for _ in range(5)]
        eventually(lambda: server.metric("atrio_queue_length") == 5)
        stopping(server, number)
        gates.open("b")
        gates.open("a")
        assert waits.result(20).text == "done"
        assert [future.result(20).text for future in queued] == ["first last"] * 5
        assert server.wait(10) == 0


def test_streams_under_way_are_finished_and_their_connections_closed(gates):
    with Atrio("gates", GATES=gates.folder) as server, server.connect() as connection:
        connection.send(b"GET /stream/a HTTP/1.1\r\nHost: test\r\n\r\n")
        gates.await_request("a")
        stopping(server)
        gates.open("a")
        reply = connection.reply()
        assert reply.complete and reply.text == "first last"
        assert connection.closed()
        assert server.wait(10) == 0


def test_a_body_under_way_is_taken_and_answered(gates):
    with Atrio("gates", GATES=gates.folder) as server, server.connect() as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf ")
        eventually(lambda: server.metric("http_server_active_requests") == 1)
        stopping(server)
        eventually(lambda: server.metric('atrio_workers{site="gates",state="draining"}') == 1)
        connection.send(b"whole")
        reply = connection.reply()
        assert (reply.status, reply.text) == (200, "done")
        assert reply.header("connection") == "close"
        assert server.wait(10) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_accept_backlog_is_served(workers):
    """The kernel has made these connections: their clients believe that they are served."""
    with ExitStack() as stack, Atrio("processes", workers=workers) as server:
        with paused(*server.workers()):
            clients = [stack.enter_context(server.connect()) for _ in range(20)]
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            stopping(server)
        assert [client.reply().status for client in clients] == [200] * 20
        assert server.wait(10) == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_a_client_is_refused_or_answered_until_the_very_end(tmp_path, listen, workers):
    """Closing a listening socket resets the connections in it."""
    for number in range(8):
        path = tmp_path / f"{number}.sock"
        with Atrio("processes", workers=workers, listen=f"unix:{path}" if listen == "unix" else listen) as server:
            address = path if listen == "unix" else ("::1" if "[" in listen else "127.0.0.1", server.port)
            crowd = Crowd(address)
            crowd.await_answers(100)
            stopping(server)
            assert server.wait(20) == 0
            assert crowd.lost() == []


def deafen(client):
    """A socket that hears nothing of what comes, until that is undone."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(nothing)))  # SO_ATTACH_FILTER
    return lambda: client.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER


def test_a_connection_that_is_being_made_is_waited_for(gates):
    """As one from far away: the kernel has answered its SYN, and new ones are refused."""
    with Atrio("gates", GATES=gates.folder) as server, socket.socket() as client:
        hear = deafen(client)
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", server.port)) != 0
        stopping(server)
        eventually(lambda: not taken(server.port), 5, "connections to be refused")
        hear()
        client.settimeout(20)
        # The kernels repeat themselves after a second.
        client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        assert server.wait(10) == 0


ACTIVATES = """#!{python}
import os, socket, sys
with socket.socket(socket.AF_UNIX) as manager:
    manager.connect({path!r})
    _, (fd,), _, _ = socket.recv_fds(manager, 1, 1)
if fd != 3:
    os.dup2(fd, 3)
    os.close(fd)
os.set_inheritable(3, True)
os.environ |= {{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}}
os.execv("BINARY", ["BINARY", *sys.argv[1:]])
"""


@pytest.mark.binary("docker run hands no sockets over")
def test_what_connects_to_the_service_managers_socket_waits_for_the_next_server(tmp_path):
    with (
        ExitStack() as stack,
        socket.create_server(("127.0.0.1", 0)) as theirs,
        socket.socket(socket.AF_UNIX) as manager,
    ):
        manager.bind(str(tmp_path / "manager"))
        manager.listen()
        port = theirs.getsockname()[1]

        def hand_over():
            for _ in range(2):
                with manager.accept()[0] as asking:
                    socket.send_fds(asking, [b"x"], [theirs.fileno()])

        handed = later(hand_over)
        script = ACTIVATES.format(python=sys.executable, path=str(tmp_path / "manager"))
        with started_by(tmp_path, script):
            with Atrio("processes", listen=None) as server:
                assert server.port == port and server.get().status == 200
                stopping(server)
                assert server.wait(10) == 0
            waits = stack.enter_context(Connection(port))
            waits.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            with Atrio("processes", listen=None):
                assert waits.reply().status == 200
        handed.result(20)


def test_no_connection_is_taken_during_the_drain_that_nobody_will_serve(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        stopping(server)
        eventually(lambda: not taken(server.port), 5, "connections to be refused")
        gates.open("a")
        assert waits.result(20).text == "done"


def taken(port):
    try:
        Connection(port, 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_probes_tell_of_a_drain(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        assert server.admin("/readyz").status == 200
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        stopping(server)
        assert server.admin("/readyz").status == 503
        assert server.admin("/livez").status == 200
        assert "[-]not-draining failed" in server.admin("/readyz?verbose").text
        eventually(lambda: server.metric('atrio_workers{site="gates",state="draining"}') == 1)
        gates.open("a")
        assert waits.result(20).status == 200
        assert server.wait(10) == 0


def test_connections_are_accepted_during_the_drain_delay():
    with Atrio("processes", drain_delay="1500ms") as server, server.connect() as kept:
        stopping(server)
        assert server.admin("/readyz").status == 503
        for _ in range(5):
            assert server.get().status == 200
            assert kept.request().status == 200
        assert server.wait(10) == 0


def test_a_worker_that_dies_during_the_drain_delay_is_replaced():
    """Load balancers still send requests."""
    with Atrio("processes", drain_delay="60s") as server:
        stopping(server)
        (worker,) = server.workers()
        os.kill(worker, SIGKILL)
        assert answer(server)["pid"] != worker


@pytest.mark.parametrize("how", ["wait", "stick"])
def test_what_does_not_end_is_killed_at_the_drain_timeout(gates, how):
    with Atrio("gates", GATES=gates.folder, drain_timeout="500ms") as server:
        lost = later(server.get, f"/{how}/a")
        gates.await_request("a")
        children = server.children()
        stopping(server)
        server.wait(8)
        gone(*children)
        assert isinstance(lost.exception(10), (EOFError, ConnectionResetError))
        assert "killed" in server.log()


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 143), (SIGINT, 130)])
def test_a_second_signal_means_now(gates, number, code):
    with Atrio("gates", workers=2, GATES=gates.folder) as server:
        later(server.get, "/wait/a")
        gates.await_request("a")
        children = server.children()
        stopping(server)
        server.signal(number)
        assert server.wait(5) == code
        gone(*children)


def test_a_hang_up_during_the_drain_changes_nothing(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        waits = later(server.get, "/wait/a")
        gates.await_request("a")
        stopping(server)
        server.signal(SIGHUP)
        gates.open("a")
        assert waits.result(20).status == 200
        assert server.wait(10) == 0


def test_a_signal_to_every_process_is_as_good_as_one_to_the_first(gates):
    """As systemd does by default (KillMode=control-group)."""
    with Atrio("gates", workers=2, GATES=gates.folder) as server:
        waits, streams = later(server.get, "/wait/a"), later(server.get, "/stream/b")
        gates.await_request("a")
        gates.await_request("b")
        children = server.children()
        for pid in [*server.workers(), *named(server, "atrio-zygote"), server.pid]:
            os.kill(pid, SIGTERM)
        gates.open("a")
        gates.open("b")
        assert waits.result(20).text == "done"
        assert streams.result(20).text == "first last"
        assert server.wait(10) == 0
        gone(*children)


def test_the_accept_backlog_is_served_when_every_process_gets_the_signal():
    with Atrio("processes") as server, ExitStack() as stack:
        for pid in server.workers():
            os.kill(pid, SIGSTOP)
        clients = [stack.enter_context(server.connect()) for _ in range(10)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        for pid in server.workers():
            os.kill(pid, SIGTERM)
            os.kill(pid, SIGCONT)
        server.signal(SIGTERM)
        assert [client.reply().status for client in clients] == [200] * 10
        assert server.wait(10) == 0


@pytest.mark.parametrize("preload", ["on", "off"])
def test_the_exit_handlers_of_the_site_run_once_in_each_worker(gates, preload):
    with Atrio("gates", workers=2, preload=preload, GATES=gates.folder) as server:
        workers = server.workers()
        stopping(server)
        assert server.wait(10) == 0
    assert sorted(gates.written("left")) == sorted(map(str, workers))


def test_what_exit_handlers_print_is_logged(tmp_path):
    with Atrio(site(tmp_path, top="import atexit\natexit.register(print, 'so long')")) as server:
        stopping(server)
        assert server.wait(10) == 0
        assert "so long" in server.log()


def test_an_exit_handler_that_fails_is_logged_and_does_not_keep_the_server(tmp_path):
    with Atrio(site(tmp_path, top="import atexit\natexit.register(lambda: 1 / 0)")) as server:
        stopping(server)
        assert server.wait(10) == 0
        assert "ZeroDivisionError" in server.log()


def test_the_last_lines_of_the_access_log_are_written():
    with Atrio("processes", access_log="common") as server:
        for _ in range(100):
            server.get()
        stopping(server)
        assert server.wait(10) == 0
        assert len(server.access_log().splitlines()) == 100


def test_a_signal_during_the_first_import_ends_the_server(tmp_path):
    begun = tmp_path / "begun"
    top = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)"
    with Atrio(site(tmp_path / "site", top=top), ready=False) as server:
        eventually(begun.exists)
        stopping(server)
        assert server.wait(5) == 0


@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_signal_during_a_reload_ends_both_imports(tmp_path, preload):
    begun = tmp_path / "begun"
    with Atrio(site(tmp_path / "site"), preload=preload) as server:
        site(tmp_path / "site", top=f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)")
        server.signal(SIGHUP)
        eventually(begun.exists)
        assert len(named(server, "atrio-zygote")) == 2
        children = server.children()
        stopping(server)
        assert server.wait(5) == 0
        gone(*children)


def test_it_serves_and_ends_with_stdin_closed(tmp_path):
    with started_by_shell(tmp_path, "<&-"), Atrio("processes", workers=2) as server:
        assert answer(server)["pid"] in server.workers()
        server.signal(SIGHUP)
        server.hear("(?m)^READY=1$")
        assert server.get().status == 200
        stopping(server)
        assert server.wait(10) == 0


def test_the_file_of_a_unix_socket_is_removed(tmp_path):
    path = tmp_path / "atrio.sock"
    with Atrio("processes", listen=f"unix:{path}") as server:
        assert file_kind.S_ISSOCK(path.stat().st_mode)
        with Connection(path) as connection:
            assert connection.request().status == 200
        stopping(server)
        assert server.wait(10) == 0
    assert not path.exists()
