"""The admin listener: probes and metrics."""

import os
from collections import Counter
from itertools import pairwise
from signal import SIGKILL

import pytest
from prometheus_client.parser import text_string_to_metric_families

from behaviour.support import connect_to, crashes, gone, later, site
from behaviour.test_config import free_port
from harness import Atrio, Connection, eventually

REQUESTS = "http_server_request_duration_seconds_count"


def samples(server):
    """{(name, labels): value} of all that /metrics says, which has to be valid."""
    reply = server.admin("/metrics")
    assert reply.status == 200
    assert reply.header("content-type").startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(reply.text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def counters(server):
    return {key: value for key, value in samples(server).items() if key[0].endswith(("_total", "_count", "_bucket"))}


def requests(server):
    """{(method, status, version): count}"""
    counts = Counter()
    for (name, labels), value in samples(server).items():
        if name == REQUESTS and value:
            labels = dict(labels)
            names = ("http_request_method", "http_response_status_code", "network_protocol_version")
            counts[tuple(labels[n] for n in names)] += int(value)
    return dict(counts)


@pytest.mark.parametrize("probe", ["livez", "readyz", "startupz"])
def test_probes_answer_shortly_or_in_detail(probe):
    with Atrio("processes") as server:
        reply = server.admin(f"/{probe}")
        assert (reply.status, reply.text) == (200, "ok")
        detail = server.admin(f"/{probe}?verbose").text.splitlines()
        assert detail[-1] == f"{probe} check passed"
        assert all(line.startswith("[+]") and line.endswith(" ok") for line in detail[:-1])


def test_other_paths_and_methods_are_refused():
    with Atrio("processes") as server, Connection(server.admin_port) as connection:
        assert connection.request("/nothing").status == 404
        assert connection.request("/livez", method="POST").status == 405
        assert connection.request("/livez", method="HEAD").status == 200
        assert connection.request("/livez").status == 200
        assert server.get("/livez").text != "ok", "the site's own address does not answer for it"


def test_probes_tell_how_far_the_start_is(tmp_path):
    go, port = tmp_path / "go", free_port()
    top = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    with Atrio(site(tmp_path / "site", top=top), ready=False, admin_listen=f"127.0.0.1:{port}") as server:
        server.admin_port = port

        def statuses():
            try:
                return [server.admin(f"/{probe}").status for probe in ("livez", "readyz", "startupz")]
            except ConnectionRefusedError:
                return None

        assert eventually(statuses) == [200, 503, 503]
        go.touch()
        server.wait_ready()
        assert statuses() == [200, 200, 200]


def test_readiness_is_lost_with_the_last_worker(tmp_path):
    go = tmp_path / "go"
    go.touch()
    top = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    with Atrio(site(tmp_path / "site", top=top), preload="off") as server:
        assert server.admin("/readyz").status == 200
        go.unlink()
        os.kill(server.workers()[0], SIGKILL)
        eventually(lambda: server.admin("/readyz").status == 503)
        assert server.admin("/livez").status == 200
        go.touch()
        eventually(lambda: server.admin("/readyz").status == 200)


def test_liveness_is_lost_while_nobody_gets_the_gil(gates):
    """Of C code that keeps the GIL for 12 s the probe tells after 10; the I/O thread and the probe need no GIL."""
    with Atrio("gates", GATES=gates.folder) as server:
        stuck = later(server.get, "/stick/a", timeout=40)
        gates.await_request("a")
        assert server.admin("/livez").status == 200
        eventually(lambda: server.admin("/livez").status == 503, 20)
        assert "[-]python failed" in server.admin("/livez?verbose").text
        assert stuck.result(30).status == 200
        eventually(lambda: server.admin("/livez").status == 200)


def test_metrics_are_valid_from_the_start():
    with Atrio("processes", workers=2, threads=3) as server:
        found = {name: value for (name, _), value in samples(server).items()}
        assert found["atrio_threads"] == 6
        assert found["atrio_generation"] == found["atrio_build_info"] == 1
        assert ("atrio_workers", (("site", "processes"), ("state", "ready"))) in samples(server)
        assert requests(server) == {}


def test_counters_equal_what_was_sent_to_two_workers():
    with Atrio("processes", workers=2) as server:
        for worker in server.workers():
            with connect_to(server, worker) as connection:
                for _ in range(20):
                    connection.request()
                for _ in range(10):
                    connection.request(method="POST", body=b"x" * 7)
                connection.request(method="BREW")
                connection.request(method="HEAD")
                assert connection.request("/", [("Connection", "close")], version="HTTP/1.0").status == 200
        server.get("/../etc/passwd")
        expected = {
            ("GET", "200", "1.1"): 42,
            ("POST", "200", "1.1"): 20,
            ("_OTHER", "200", "1.1"): 2,
            ("HEAD", "200", "1.1"): 2,
            ("GET", "200", "1.0"): 2,
            ("GET", "400", "1.1"): 1,
        }
        eventually(lambda: requests(server) == expected, 10, f"{requests(server)} to become {expected}")
        assert server.metric("http_server_request_body_bytes_total") == 140
        assert server.metric("atrio_app_seconds_count") == sum(expected.values()) - 1
        assert server.metric("atrio_queue_wait_seconds_count") == sum(expected.values()) - 1
        assert server.metric('atrio_requests_rejected_total{reason="bad_request"}') == 1
        assert server.metric("atrio_connections_accepted_total") == 3
        assert server.metric("http_server_active_requests") == 0


def test_response_bytes_and_exceptions_are_counted(tmp_path):
    with Atrio(site(tmp_path, "1 / 0 if environ['QUERY_STRING'] else 'x' * 998")) as server:
        for _ in range(10):
            server.get()
        eventually(lambda: server.metric("http_server_response_body_bytes_total") == 10_000)
        for _ in range(3):
            assert server.get("/?fail").status == 500
        eventually(lambda: server.metric("atrio_exceptions_total") == 3)
        assert requests(server)[("GET", "500", "1.1")] == 3


def test_no_counter_goes_back_when_workers_die_or_the_site_is_reloaded():
    with Atrio("processes", workers=2) as server:
        for _ in range(50):
            server.get()
        eventually(lambda: requests(server)[("GET", "200", "1.1")] == 50)
        seen = [counters(server)]
        for number in range(3):
            workers = server.workers()
            if number == 1:
                server.signal(1)
                server.hear("(?m)^READY=1$")
            else:
                for worker in workers:
                    os.kill(worker, SIGKILL)
            gone(*workers)
            server.get()
            eventually(lambda: server.metric('atrio_workers{site="processes",state="ready"}') == 2)
            eventually(lambda number=number: requests(server)[("GET", "200", "1.1")] == 51 + number)
            seen.append(counters(server))
        for before, after in pairwise(seen):
            assert all(after[key] >= value for key, value in before.items())
        assert crashes(server) == 4
        assert server.metric('atrio_worker_restarts_total{site="processes",reason="reload"}') == 2
        assert server.metric("atrio_requests_lost_total") == 0


def test_gauges_of_a_dead_worker_are_forgotten(gates):
    with Atrio("gates", threads=2, GATES=gates.folder) as server:
        asked = later(server.get, "/wait/a")
        gates.await_request("a")
        assert server.metric("http_server_active_requests") == server.metric("atrio_threads_busy") == 1
        os.kill(server.workers()[0], SIGKILL)
        assert isinstance(asked.exception(10), (EOFError, ConnectionResetError))
        eventually(lambda: crashes(server) == 1)
        assert server.metric("http_server_active_requests") == server.metric("atrio_threads_busy") == 0
        assert server.metric("atrio_connections") == 0


def test_requests_that_run_and_wait_are_told(gates):
    with Atrio("gates", threads=2, GATES=gates.folder) as server:
        asked = [later(server.get, f"/wait/{name}") for name in "ab"]
        gates.await_request("a")
        gates.await_request("b")
        asked += [later(server.get) for _ in range(3)]
        eventually(lambda: server.metric("atrio_queue_length") == 3)
        assert server.metric("atrio_threads_busy") == 2
        assert server.metric("http_server_active_requests") == 5
        gates.open("a")
        gates.open("b")
        assert [future.result(20).status for future in asked] == [200] * 5
        eventually(lambda: server.metric("http_server_active_requests") == server.metric("atrio_threads_busy") == 0)
