"""What /metrics says is right: across workers and their deaths, for every phase of a request, in both formats."""

import os
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL, SIGTERM
from threading import Event

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from behaviour.support import connect_to, crashes, gone, later, site, stat, write
from behaviour.test_admin import requests, samples
from harness import ROOT, Atrio, eventually

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
"""The Accept of Prometheus 2."""


def families(server, accept):
    """{name: (type, help, label names, samples)} as the parser of a format understands them."""
    reply = server.admin("/metrics", [("Accept", accept)])
    is_open = reply.header("content-type") == OPEN_METRICS
    found = {}
    for family in (open_metrics if is_open else text_format)(reply.text):
        values = {}
        for sample in family.samples:
            labels = {k: str(float(v)) if k == "le" else v for k, v in sample.labels.items()}
            values[(sample.name, tuple(sorted(labels.items())))] = sample.value
        names = {name for _, labels in values for name, _ in labels} - {"le"}
        found[family.name] = (family.type, family.documentation, frozenset(names), values)
    return reply, found


def quiet(server):
    eventually(lambda: server.metric("http_server_active_requests") == 0, what="all requests to end")


def test_openmetrics_says_the_same_to_those_who_ask_for_it():
    with Atrio("processes", workers=2) as server:
        for _ in range(10):
            server.get(method="POST", body=b"x")
        quiet(server)
        reply, text = families(server, "text/plain")
        assert reply.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        reply, opened = families(server, PROMETHEUS)
        assert reply.header("content-type") == OPEN_METRICS
    assert reply.text.endswith("\n# EOF\n")
    assert "# UNIT http_server_request_duration_seconds seconds\n" in reply.text
    assert opened["http_server_request_duration_seconds"][0] == "histogram"
    assert text.keys() == opened.keys()
    for name, (kind, help_, labels, values) in text.items():
        assert opened[name][:3] == (kind, help_, labels)
        if not name.startswith("process_"):
            assert opened[name][3] == values


def test_promtool_finds_nothing_to_complain_of():
    with Atrio("processes") as server:
        server.get()
        metrics = server.admin("/metrics", [("Accept", "text/plain")]).body
    check = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_the_readme_lists_every_metric_with_its_labels():
    table = {}
    for line in (ROOT / "README.md").read_text().partition("| metric | kind | labels |")[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        names, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for name in names.replace("`", "").split(", "):
            table[name] = (kind, frozenset(labels.replace("`", "").split(", ")) - {""})
    with Atrio("processes") as server:
        server.get()
        eventually(lambda: server.metric("atrio_worker_memory_bytes"))
        _, found = families(server, "text/plain")
    actual = {name + "_total" * (kind == "counter"): (kind, labels) for name, (kind, _, labels, _) in found.items()}
    processes = {name for name in actual if name.startswith("process_")}
    assert len(processes) == 7
    assert table == {name: row for name, row in actual.items() if name not in processes}


def test_requests_inside_a_killed_worker_are_counted_as_lost_and_all_others_as_served(gates):
    with Atrio("gates", threads=2, GATES=gates.folder) as server:
        for _ in range(40):
            assert server.get().status == 200
        inside = [later(server.get, f"/wait/{name}") for name in "ab"]
        gates.await_request("a")
        gates.await_request("b")
        inside += [later(server.get) for _ in range(3)]
        eventually(lambda: server.metric("atrio_queue_length") == 3)
        (worker,) = server.workers()
        os.kill(worker, SIGKILL)
        assert all(isinstance(future.exception(20), (EOFError, ConnectionResetError)) for future in inside)
        for _ in range(40):
            assert server.get().status == 200
        quiet(server)
        assert requests(server) == {("GET", "200", "1.1"): 80}
        assert server.metric("atrio_requests_lost_total") == 5
        assert server.metric("atrio_app_seconds_count") == 80


KINDS = {
    "GET 200": ("/", {}),
    "POST 200": ("/", {"method": "POST", "body": b"x" * 100}),
    "HEAD 200": ("/", {"method": "HEAD"}),
    "GET 400": ("/../", {}),
}


def test_counters_equal_the_clients_count_while_workers_are_killed():
    """Of the requests that clients saw fail, some were in a worker and are lost, some had their answer made but not sent, and
    some no worker ever read; of those that they saw answered, none is missing."""
    clients, kills, over = 4, 5, Event()
    answered, failed = Counter(), Counter()
    with Atrio("processes", workers=2, threads=2, log="error") as server:

        def client():
            connection = None
            while not over.is_set():
                for kind, (path, options) in KINDS.items():
                    connection = connection or server.connect()
                    try:
                        reply = connection.request(path, **options)
                        answered[f"{options.get('method', 'GET')} {reply.status}"] += 1
                        if reply.header("connection") == "close":
                            connection = connection.close()
                    except (EOFError, ConnectionResetError, BrokenPipeError):
                        failed[kind] += 1
                        connection = connection.close()

        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(client) for _ in range(clients)]
            for _ in range(kills):
                before = server.metric("http_server_request_duration_seconds_count")
                eventually(lambda before=before: server.metric("http_server_request_duration_seconds_count") > before)
                victim = server.workers()[0]
                os.kill(victim, SIGKILL)
                gone(victim)
                eventually(lambda: server.metric('atrio_workers{site="processes",state="ready"}') == 2)
            over.set()
            for future in running:
                future.result(60)
        quiet(server)
        counted = {f"{method} {status}": count for (method, status, _), count in requests(server).items()}
        lost = server.metric("atrio_requests_lost_total")
        assert crashes(server) == kills
    assert counted.keys() == answered.keys() == KINDS.keys()
    assert failed.total() <= kills * clients
    unsent = {kind: counted[kind] - answered[kind] for kind in KINDS}
    assert all(0 <= unsent[kind] <= failed[kind] for kind in KINDS), (counted, answered, failed)
    assert 0 <= lost <= failed.total() - sum(unsent.values())


def test_ten_thousand_paths_methods_and_hosts_make_no_new_series():
    with Atrio("processes", access_log="off") as server, server.connect() as connection:

        def exchange(numbers):
            heads = [f"M{n} /{n}?{n} HTTP/1.1\r\nHost: h{n}.example\r\n\r\n" for n in numbers]
            connection.send("".join(heads).encode())
            assert {connection.reply().status for _ in numbers} == {200}

        exchange(range(1))
        eventually(lambda: server.metric("atrio_worker_memory_bytes"))
        quiet(server)
        before = samples(server)
        for start in range(0, 10_000, 50):
            exchange(range(start, start + 50))
        quiet(server)
        after = samples(server)
    assert before.keys() == after.keys()
    assert sum(v for (name, _), v in after.items() if name == "http_server_request_duration_seconds_count") == 10_001


BLOCKING = """
    import ctypes, os

    FIFO = {fifo!r}

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        what = environ["PATH_INFO"].strip("/")
        if what:
            library = ctypes.PyDLL(None) if what == "hold" else ctypes.CDLL(None)
            file = os.open(FIFO, os.O_RDWR)
            os.close(library.creat((FIFO + "." + what).encode(), 0o666))
            library.read(file, ctypes.create_string_buffer(1), 1)
            os.close(file)
        return [b"done"]
"""
"""Reads from a pipe in C, /hold with the GIL and /release without."""


def begun(server, marker):
    """Waits until a request blocks in C: between its marker and that, other threads still get the GIL."""
    eventually(marker.exists, what=f"{marker} to come")
    marker.unlink()
    tasks = Path(f"/proc/{server.workers()[0]}/task")
    app = [task for task in tasks.iterdir() if (task / "comm").read_text().startswith("atrio-app")]

    def wait():
        return all(
            stat(task.relative_to("/proc"))[0] == "S" and not time.sleep(0.005) for _ in range(5) for task in app
        )

    eventually(wait, what="all app threads to wait")


@pytest.fixture
def blocking(tmp_path):
    """A site that blocks in C, the function that unblocks it, and one that waits until a request is in it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    tmp_path.chmod(0o777)
    file = os.open(fifo, os.O_RDWR)
    yield (
        write(tmp_path / "site", BLOCKING.format(fifo=str(fifo))),
        lambda count=1: os.write(file, b"x" * count),
        lambda server, what: begun(server, tmp_path / f"fifo.{what}"),
    )
    os.close(file)


@pytest.mark.parametrize("what", ["hold", "release"])
def test_metrics_answer_while_every_app_thread_is_in_c_code(blocking, what):
    folder, unblock, begun = blocking
    with Atrio(folder, threads=3) as server:
        stuck = [later(server.get, f"/{what}", timeout=60)]
        begun(server, what)
        stuck += [later(server.get, f"/{what}", timeout=60) for _ in range(2)]
        # Those that wait for the GIL are called, but have no request yet.
        eventually(lambda: server.metric("atrio_threads_busy") == (1 if what == "hold" else 3))
        took = []
        for _ in range(50):
            began = time.monotonic()
            assert server.admin("/metrics").status == 200
            took.append(time.monotonic() - began)
        assert sorted(took)[25] < 0.1
        unblock(3)
        assert [future.result(30).status for future in stuck] == [200] * 3


def phases(server):
    """{phase: seconds} of all requests."""
    return {phase: server.metric(f"atrio_{phase}_seconds_sum") for phase in ("queue_wait", "gil_wait", "app", "write")}


def hold_for(seconds):
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > end)


def phases_behind(blocking, what, threads):
    """Those of a request that waits for a second behind one that does `what`, and of that one."""
    folder, unblock, begun = blocking
    with Atrio(folder, threads=threads) as server:
        held = later(server.get, f"/{what}")
        begun(server, what)
        waits = later(server.get)
        eventually(lambda: server.metric("atrio_queue_length") == 1)
        hold_for(1)
        unblock()
        assert (held.result(20).status, waits.result(20).status) == (200, 200)
        quiet(server)
        return phases(server)


def test_the_wait_for_the_gil_is_told_from_that_for_a_thread(blocking):
    # The thread that had the GIL may take the request itself, before the other one gets it: then the wait was one for a thread.
    attempts = (phases_behind(blocking, "hold", threads=2) for _ in range(4))
    found = next((found for found in attempts if found["gil_wait"] > 0.7), None)
    assert found, "the wait for the GIL counts as something else"
    assert found["queue_wait"] < 0.4 and found["app"] > 0.9


def test_the_wait_for_a_thread_is_told_from_that_for_the_gil(blocking):
    found = phases_behind(blocking, "release", threads=1)
    assert found["queue_wait"] > 0.9 and found["app"] > 0.9
    assert found["gil_wait"] < 0.4


LARGE = {
    "whole": "start_response('200 OK', []); return [b'x' * SIZE]",
    "blocks": "start_response('200 OK', []); return [b'x' * 1000] * (SIZE // 1000)",
    "stream": "start_response('200 OK', []); return (b'x' * 1000 for _ in range(SIZE // 1000))",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_response_ends_when_the_kernel_has_it(tmp_path, kind):
    """The client's slowness is time of writing, not of the application."""
    size = 12_000_000
    folder = write(tmp_path, f"SIZE = {size}\ndef application(environ, start_response):\n    {LARGE[kind]}\n")
    with Atrio(folder, access_log="json") as server, server.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.metric("atrio_app_seconds_count") == 1)
        assert server.metric("http_server_active_requests") == 1
        assert (requests(server), server.access_log()) == ({}, "")
        hold_for(0.5)
        assert len(connection.reply().body) == size
        quiet(server)
        assert requests(server) == {("GET", "200", "1.1"): 1}
        assert server.metric("http_server_response_body_bytes_total") == size
        assert server.metric("atrio_write_seconds_sum") > 0.5
        assert server.metric("http_server_request_duration_seconds_sum") > 0.5
        server.wait_log('"status":200', where="access_log")


def test_a_client_that_leaves_without_its_response_is_counted_once(tmp_path):
    folder = write(tmp_path, f"SIZE = {12_000_000}\ndef application(environ, start_response):\n    {LARGE['whole']}\n")
    with Atrio(folder) as server:
        with server.connect() as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            eventually(lambda: server.metric("atrio_app_seconds_count") == 1)
        quiet(server)
        assert sum(requests(server).values()) == 1
        assert server.metric("atrio_connections") == 0
        assert server.metric("atrio_exceptions_total") == 0


def test_bodies_that_the_site_asks_for_are_counted(tmp_path):
    with Atrio(site(tmp_path, "len(environ['wsgi.input'].read())")) as server, server.connect() as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n")
        assert connection.reply(interim=True).status == 100
        assert connection.send(b"1234567").reply().body == b"7"
        eventually(lambda: server.metric("http_server_request_body_bytes_total") == 7)


def test_the_memory_of_each_worker_is_told():
    with Atrio("processes", workers=2) as server:

        def told():
            values = {labels: value for (name, labels), value in samples(server).items() if "worker_memory" in name}
            return len(values) == 2 and values

        assert all(value > 1_000_000 for value in eventually(told).values())
        victim = server.workers()[0]
        os.kill(victim, SIGKILL)
        gone(victim)
        eventually(told)


def test_a_worker_that_is_asked_to_leave_is_replaced_and_counted():
    with Atrio("processes") as server:
        (worker,) = server.workers()
        connect_to(server, worker).close()
        os.kill(worker, SIGTERM)
        gone(worker)
        eventually(lambda: server.metric('atrio_worker_restarts_total{site="processes",reason="terminated"}') == 1)
        assert server.get().status == 200
