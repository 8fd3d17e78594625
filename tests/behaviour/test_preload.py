"""Whether the site is imported once for all workers, or in each of them."""

import pytest

from behaviour.support import answer, connect_to, records, site
from harness import Atrio

WHO = "[IMPORTED, os.getpid()]"
IMPORTED = "IMPORTED = os.getpid()"


def pids(server):
    """For each worker where the site was imported and where it ran."""
    seen = []
    for worker in server.workers():
        with connect_to(server, worker) as connection:
            seen.append(connection.request().text.strip("[]").split(", "))
    return seen


@pytest.mark.parametrize("preload", ["auto", "on"])
def test_the_site_is_imported_once_and_forked(tmp_path, preload):
    with Atrio(site(tmp_path, WHO, IMPORTED), workers=2, preload=preload) as server:
        (first, a), (second, b) = pids(server)
    assert first == second
    assert len({first, a, b}) == 3


def test_the_site_is_imported_in_each_worker_where_preload_is_off(tmp_path):
    with Atrio(site(tmp_path, WHO, IMPORTED), workers=2, preload="off") as server:
        seen = pids(server)
    assert all(imported == ran for imported, ran in seen)


def falls_back(server, *words):
    """Every worker has imported the site for itself, and one warning says why."""
    imported, ran = answer(server)
    assert imported == ran
    (warning,) = [record["message"] for record in records(server.log()) if record["level"] == "WARN"]
    for word in [*words, "ATRIO_PRELOAD"]:
        assert word in warning


THREAD = """
    import threading
    threading.Thread(target=threading.Event().wait, name="counts-sheep", daemon=True).start()
"""
SOCKETS = {
    "udp": "import socket\nkept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "tcp": "import socket\ndoor = socket.create_server(('127.0.0.1', 0))\n"
    "kept = socket.create_connection(door.getsockname())",
    "pair": "import socket\nkept = socket.socketpair()",
}


def test_a_thread_left_at_import_forbids_the_fork_and_the_log_names_it(tmp_path):
    with Atrio(site(tmp_path, WHO, IMPORTED + THREAD.replace("\n    ", "\n"))) as server:
        falls_back(server, "1 thread", "counts-sheep")


@pytest.mark.parametrize("kind", SOCKETS)
def test_a_socket_left_at_import_forbids_the_fork_and_the_log_says_so(tmp_path, kind):
    with Atrio(site(tmp_path, WHO, f"{IMPORTED}\n{SOCKETS[kind]}")) as server:
        falls_back(server, "socket")


def test_a_thread_and_a_socket_that_are_gone_after_the_import_forbid_nothing(tmp_path):
    top = "import socket, threading\nsocket.socket().close()\n"
    top += "worker = threading.Thread(target=int)\nworker.start()\nworker.join()\n"
    with Atrio(site(tmp_path, WHO, top + IMPORTED)) as server:
        imported, ran = answer(server)
        assert imported != ran
        assert "WARN" not in server.log()


def test_preload_on_forks_whatever_the_import_left_and_warns(tmp_path):
    with Atrio(site(tmp_path, WHO, f"{IMPORTED}\n{SOCKETS['pair']}"), preload="on") as server:
        imported, ran = answer(server)
        assert imported != ran
        server.wait_log("2 sockets")


def test_the_fall_back_outlives_a_reload(tmp_path):
    with Atrio(site(tmp_path, WHO, f"{IMPORTED}\n{SOCKETS['pair']}")) as server:
        server.signal(1)
        server.hear("RELOADING=1")
        server.hear("READY=1")
        falls_back(server, "2 sockets")
