"""The tree of processes, and what becomes of it when one of them dies."""

import contextlib
import json
import os
import resource
import time
from collections import Counter
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGTERM

import pytest

from behaviour.support import answer, connect_to, crashes, gone, later, named, site, stat
from harness import Atrio, eventually


def test_the_tree_is_a_supervisor_a_zygote_and_workers():
    with Atrio("processes", workers=2) as server:
        assert sorted(server.children().values()) == ["atrio-worker", "atrio-worker", "atrio-zygote"]
        assert {stat(pid)[1] for pid in server.children()} == {server.pid}
        assert Path(f"/proc/{server.pid}/comm").read_text() == "atrio\n"
        seen = answer(server)
        assert seen["pid"] in server.workers()
        assert seen["parent"] == server.pid


def test_no_worker_leads_a_session_or_holds_the_terminal():
    with Atrio("processes") as server:
        for pid in server.children():
            assert os.getpgid(pid) != os.getpgid(server.pid), "Ctrl-C in a terminal would reach it"


@pytest.mark.parametrize("number", [SIGKILL, SIGTERM, SIGABRT])
def test_a_killed_worker_is_replaced_while_the_other_one_serves(number):
    with Atrio("processes", workers=2) as server:
        first, second = server.workers()
        with connect_to(server, second) as connection:
            os.kill(first, number)
            gone(first)
            assert json.loads(connection.request().body)["pid"] == second
            eventually(lambda: len(server.workers()) == 2)
            assert first not in server.workers()
            eventually(lambda: server.metric('atrio_workers{site="processes",state="ready"}') == 2)
            assert json.loads(connection.request().body)["pid"] == second
        # A worker that was asked to leave has not crashed.
        assert crashes(server) == (0 if number == SIGTERM else 1)
        assert server.get().status == 200


def test_a_request_that_segfaults_costs_only_itself():
    with Atrio("processes", workers=2) as server:
        first, second = server.workers()
        with connect_to(server, first) as broken, connect_to(server, second) as whole:
            with pytest.raises((EOFError, ConnectionResetError)):
                broken.request("/segfault")
            gone(first)
            assert json.loads(whole.request().body)["pid"] == second
        server.wait_log("SIGSEGV")
        eventually(lambda: len(server.workers()) == 2)
        eventually(lambda: crashes(server) == 1)
        assert server.get().status == 200


def test_the_only_worker_comes_back():
    """What clients ask meanwhile waits on the socket, which is never closed."""
    with Atrio("processes") as server:
        for _ in range(3):
            (worker,) = server.workers()
            os.kill(worker, SIGKILL)
            assert answer(server)["pid"] != worker


def crash_loop(folder, **settings):
    """Runs a site that cannot live; its exit code, its log, and the share of one CPU that it took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with Atrio(folder, ready=False, **settings) as server:
        code = server.wait()
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
        log = server.log()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return code, log, cpu / wall


def test_workers_that_die_at_birth_end_the_server_with_the_reason(tmp_path):
    code, log, _ = crash_loop(site(tmp_path, top="os._exit(7)"), preload="off", workers=2)
    assert code == 70
    assert "exited with code 7" in log.splitlines()[-1]


def test_a_site_that_ends_its_process_at_import_ends_the_server_with_the_reason(tmp_path):
    code, log, _ = crash_loop(site(tmp_path, top="os._exit(7)"))
    assert code == 70
    assert "exited with code 7" in log.splitlines()[-1]


def test_a_crash_loop_ends_the_server_with_the_reason_and_spins_no_cpu(tmp_path):
    dies_soon = "import threading\nthreading.Timer(0.01, os._exit, [9]).start()"
    code, log, cpu = crash_loop(site(tmp_path, top=dies_soon), preload="off")
    assert code == 70
    assert "exited with code 9" in log.splitlines()[-1]
    assert cpu < 0.7


@pytest.mark.parametrize("busy", ["idle", "waiting", "stuck"])
def test_no_process_outlives_the_supervisor(gates, busy):
    with Atrio("gates", workers=2, threads=2, GATES=gates.folder) as server:
        if busy != "idle":
            later(server.get, "/wait/a" if busy == "waiting" else "/stick/a")
            gates.await_request("a")
        children = server.children()
        server.signal(SIGKILL)
        gone(server.pid, *children)


@pytest.mark.parametrize("preload", ["on", "off"])
def test_no_import_outlives_the_supervisor(tmp_path, preload):
    begun = tmp_path / "begun"
    slow = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)"
    with Atrio(site(tmp_path / "site", top=slow), ready=False, preload=preload) as server:
        eventually(begun.exists)
        children = server.children()
        server.signal(SIGKILL)
        gone(server.pid, *children)


def test_a_killed_zygote_is_replaced_by_a_new_generation_while_the_site_serves():
    with Atrio("processes", workers=2) as server:
        workers = server.workers()
        (zygote,) = named(server, "atrio-zygote")
        with connect_to(server, workers[0]) as connection:
            os.kill(zygote, SIGKILL)
            gone(zygote)
            assert connection.request().status == 200
            server.hear("READY=1")
            assert server.metric("atrio_generation") == 2
            assert connection.request().status == 200
        gone(*workers)
        assert sorted(server.children().values()) == ["atrio-worker", "atrio-worker", "atrio-zygote"]
        assert server.get().status == 200


def test_two_workers_run_python_at_the_same_time(tmp_path):
    """Each counts until the other has counted, which one GIL or one core after the other would not need to end."""
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(16))
    with Atrio("processes", workers=2) as server:
        connections = [connect_to(server, worker) for worker in server.workers()]
        asked = [
            later(connection.request, f"/race?path={memory}&me={me}&steps=200000")
            for me, connection in enumerate(connections)
        ]
        racers = [json.loads(future.result(60).body) for future in asked]
    assert len({racer["pid"] for racer in racers}) == 2
    assert all(racer["seen"] and racer["cpu"] > 0 for racer in racers)


def descriptors(server):
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in [server.pid, *server.children()]}


def vanish(server, data, reads=0):
    with server.connect() as connection:
        connection.send(data)
        if reads:
            connection.exactly(reads)


def test_workers_share_connections_that_come_at_once(tmp_path):
    with Atrio(site(tmp_path, "os.getpid()"), workers=2) as server:
        for _ in range(5):
            with contextlib.ExitStack() as stack:
                connections = [stack.enter_context(server.connect()) for _ in range(20)]
                found = Counter(connection.request("/").text for connection in connections)
            assert min(found[str(worker)] for worker in server.workers()) >= 5, found


def test_no_descriptor_is_lost_over_requests_and_clients_that_vanish():
    with Atrio("processes", workers=2) as server:
        for _ in range(20):
            server.get()
            server.admin("/metrics")
        before = eventually(lambda: server.metric("atrio_connections") == 0 and descriptors(server))
        for _ in range(100):
            server.get()
            vanish(server, b"GET / HTTP/1.1\r\nHo")
            vanish(server, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 200_000)
            vanish(server, b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n", reads=5000)
            server.admin("/livez")
        with server.connect() as connection:
            for _ in range(100):
                connection.request(method="POST", body=b"x" * 10_000)
        eventually(lambda: server.metric("atrio_connections") == 0)
        assert server.metric("http_server_active_requests") == 0
        eventually(lambda: descriptors(server) == before, 10, f"{descriptors(server)} to become {before} again")


def threads_of(pid):
    return [Path(task, "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]


@pytest.mark.parametrize("count", [1, 3])
def test_there_are_as_many_app_threads_as_asked_for_with_names(count):
    with Atrio("processes", threads=count) as server:
        names = [name for name in threads_of(server.workers()[0]) if name.startswith("atrio-app")]
        assert sorted(names) == [f"atrio-app-{n + 1}" for n in range(count)]
        assert server.metric("atrio_threads") == count


def test_app_threads_live_as_long_as_their_worker_and_keep_their_thread_locals():
    with Atrio("processes", threads=3) as server:

        def meet(round):
            asked = [later(answer, server, f"/meet?name={round}&count=3") for _ in range(3)]
            return {who["thread"]: who for who in (future.result(30) for future in asked)}

        rounds = [meet(number) for number in range(3)]
        for number, seen in enumerate(rounds):
            assert sorted(seen) == ["atrio-app-1", "atrio-app-2", "atrio-app-3"]
            for thread, who in seen.items():
                assert (who["ident"], who["native"]) == (rounds[0][thread]["ident"], rounds[0][thread]["native"])
                assert who["requests"] == number + 1
