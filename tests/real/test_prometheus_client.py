"""A site's own metrics: what real versions of prometheus_client count is in /metrics, merged over workers, and in no file."""

import os
import re
import subprocess
import time
from contextlib import ExitStack
from signal import SIGHUP, SIGKILL

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from behaviour.support import connect_to, gone, later, paused
from harness import eventually

VERSIONS = ("0.9.0", "0.14.1", "0.20.0", "0.26.0")
NEWEST = f"prometheus-{VERSIONS[-1]}"
MODES = ("all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent", "livemostrecent")
OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def start(serve, tmp_path):
    """`start(**settings)` starts the site; processes of the site have `tmp_path/tmp` for temporary files."""
    (tmp_path / "tmp").mkdir()
    for folder in (tmp_path, tmp_path / "tmp"):
        folder.chmod(0o777)

    def started(environment=NEWEST, **settings):
        given = {"MODES": ",".join(MODES), "TMPDIR": tmp_path / "tmp", "access_log": "off"}
        return serve("prometheus", environment, **(given | settings))

    return started


def families(text, parse=text_format):
    """{family: (type, help)} and {(sample, labels): value}, pids and what is not the site's left out."""
    kinds, values = {}, {}
    for family in parse(text):
        if family.name.startswith("shop_"):
            kinds[family.name] = (family.type, family.documentation)
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "pid"))
                    values[(sample.name, labels)] = values.get((sample.name, labels), 0) + sample.value
    return kinds, values


def shown(server, accept="text/plain"):
    return families(
        server.admin("/metrics", [("Accept", accept)]).text, open_metrics if accept == OPEN else text_format
    )


def value(server, name, **labels):
    return shown(server)[1].get((name, tuple(sorted(labels.items()))))


def on(server, worker, *paths):
    """Asks one worker; its last answer."""
    with connect_to(server, worker) as connection:
        replies = [connection.request(path) for path in paths]
    assert {reply.status for reply in replies} == {200}, (replies, server.log())
    return replies[-1].text


def files(*folders):
    return {path for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("version", VERSIONS)
def test_totals_are_what_clients_counted_whatever_workers_die_or_are_replaced(start, version, tmp_path):
    environment = f"prometheus-{version}"
    with start(environment, workers=3, preload="on") as server:
        before = files(tmp_path, server.sites)
        for _ in range(2):
            for worker in server.workers():
                on(server, worker, *["/order/a"] * 5, "/order/b")
            victim = server.workers()[0]
            os.kill(victim, SIGKILL)
            gone(victim)
            eventually(lambda: len(server.workers()) == 3, what="another worker")
            eventually(lambda: server.metric('atrio_workers{site="prometheus",state="ready"}') == 3)
            server.signal(SIGHUP)
            server.hear(r"(?m)^READY=1$")
            eventually(lambda: len(server.workers()) == 3, what="the end of the last generation")
        latest = on(server, server.workers()[0], "/order/a", "/order/b", "/latest")
        kinds, values = shown(server)
        assert (kinds, values) == shown(server, OPEN)
        assert files(tmp_path, server.sites) == before, "a file was made"
    totals = {("shop_orders_total", (("kind", kind),)): count for kind, count in (("a", 31), ("b", 7))}
    totals |= {("shop_size_bytes_count", ()): 38, ("shop_size_bytes_sum", ()): 38 * 7, ("shop_imports_total", ()): 3}
    for queue, count in (("a", 31), ("b", 7)):
        labels = ("queue", queue)
        for bound, seen in (("0.1", 0), ("1.0", 0), ("10.0", count), ("+Inf", count)):
            totals[("shop_wait_seconds_bucket", (("le", bound), labels))] = seen
        totals |= {("shop_wait_seconds_count", (labels,)): count, ("shop_wait_seconds_sum", (labels,)): count * 5}
    assert {key: values.get(key) for key in totals} == totals
    # What the package itself shows in any worker is merged, too.
    itself = families(latest)[1]
    assert {key: itself.get(key) for key in totals} == totals
    helps = {"shop_orders": ("counter", "Orders\nby kind."), "shop_size_bytes": ("summary", "Sizes.")}
    if version in ("0.9.0", "0.14.1"):
        helps = {name: (kind, "Multiprocess metric") for name, (kind, _) in helps.items()}
    assert {name: kinds[name] for name in helps} == helps


def test_threads_of_several_workers_lose_nothing(start):
    with start(workers=2) as server:
        with ExitStack() as stack:
            connections = [stack.enter_context(connect_to(server, worker)) for worker in server.workers()]
            asked = [later(connection.request, "/many/2500") for connection in connections]
            assert [future.result(60).status for future in asked] == [200, 200]
        assert value(server, "shop_orders_total", kind="many") == 20_000
        assert value(server, "shop_wait_seconds_bucket", queue="many", le="1.0") == 20_000
        assert value(server, "shop_wait_seconds_sum", queue="many") == 10_000
        assert value(server, "shop_size_bytes_sum") == 40_000


def by_pid(server, mode):
    lines = re.findall(rf'(?m)^shop_{mode}_depth{{of="a",pid="(\d+)"}} (.*)$', server.admin("/metrics").text)
    return {int(pid): float(at) for pid, at in lines}


def test_gauges_follow_their_mode_while_workers_live_and_when_they_are_dead(start):
    with start(workers=2) as server:
        one, other = server.workers()
        pids = [int(on(server, one, "/gauges/5", "/up/4")), int(on(server, other, "/gauges/3"))]
        for mode in ("all", "liveall"):
            assert by_pid(server, mode) == {pids[0]: 8, pids[1]: 3}

        def merged():
            return {mode: value(server, f"shop_{mode}_depth", of="a") for mode in MODES if "all" not in mode}

        together = {"min": 3, "max": 8, "sum": 11, "mostrecent": 3}
        assert merged() == together | {f"live{mode}": at for mode, at in together.items()}
        os.kill(other, SIGKILL)
        gone(other)
        alive = {"livemin": 8, "livemax": 8, "livesum": 8, "livemostrecent": 5}
        eventually(lambda: merged() == together | alive, what=f"{together | alive}, and not {merged()}")
        assert by_pid(server, "liveall") == {pids[0]: 8}
        eventually(lambda: len(server.workers()) == 2)
        (new,) = set(server.workers()) - {one}
        eventually(lambda: server.metric('atrio_workers{site="prometheus",state="ready"}') == 2)
        pids[1] = int(on(server, new, "/gauges/1"))
        assert merged() == {
            "min": 1,
            "max": 8,
            "sum": 12,
            "mostrecent": 1,
            "livemin": 1,
            "livemax": 8,
            "livesum": 9,
            "livemostrecent": 1,
        }
        assert by_pid(server, "all") == by_pid(server, "liveall") == {pids[0]: 8, pids[1]: 1}
        on(server, one, "/remove/")
        assert by_pid(server, "all") == {pids[1]: 1}


@pytest.mark.parametrize("preload", ("on", "off"))
def test_what_the_import_sets_is_every_worker_s(start, preload):
    with start(workers=2, preload=preload) as server:
        assert value(server, "shop_version") == 6
        assert value(server, "shop_imports_total") == (1 if preload == "on" else 2)
        worker = server.workers()[0]
        os.kill(worker, SIGKILL)
        gone(worker)
        eventually(lambda: value(server, "shop_version") == 6)


def test_what_the_site_forks_counts_and_has_gauges_of_its_own(start):
    with start(workers=1) as server:
        server.get("/gauges/5")
        assert server.get("/fork/9").status == 200
        assert value(server, "shop_orders_total", kind="forked") == 1
        assert value(server, "shop_max_depth", of="a") == value(server, "shop_sum_depth", of="a") == 5
        assert len(by_pid(server, "all")) == 1


def test_a_stopped_worker_does_not_hide_what_it_has_counted(start):
    with start(workers=1) as server:
        server.get("/order/a")
        with paused(*server.workers()):
            assert value(server, "shop_orders_total", kind="a") == 1


def test_a_name_of_atrio_s_is_dropped_with_one_warning_and_promtool_is_content(start):
    with start(workers=1) as server:
        server.get("/order/a")
        server.get("/gauges/1")
        assert server.get("/odd/").status == 200
        for _ in range(3):
            metrics = server.admin("/metrics", [("Accept", "text/plain")]).body
        assert server.metric("atrio_workers") == 1
        assert server.log().count("metric atrio_workers is not in /metrics") == 1
        kinds = {labels[0][1]: at for (name, labels), at in shown(server)[1].items() if name == "shop_orders_total"}
        assert [at for kind, at in kinds.items() if kind.startswith('"\\\n') and kind.endswith("é")] == [1]
        assert value(server, "shop_orders_total", kind="a") == 1
        assert shown(server) == shown(server, OPEN)
    check = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_exemplars_are_the_last_of_any_worker(start):
    with start(workers=2) as server:
        for number, worker in enumerate(server.workers()):
            on(server, worker, f"/traced/{number}")
        assert "trace" not in server.admin("/metrics", [("Accept", "text/plain")]).text.replace("traced", "")
        found = {}
        for family in open_metrics(server.admin("/metrics", [("Accept", OPEN)]).text):
            found |= {
                sample.name + sample.labels.get("le", ""): sample.exemplar
                for sample in family.samples
                if sample.exemplar
            }
        assert found.keys() == {"shop_orders_total", "shop_wait_seconds_bucket1.0"}
        for name, at in (("shop_orders_total", 1), ("shop_wait_seconds_bucket1.0", 0.5)):
            exemplar = found[name]
            assert (exemplar.labels, exemplar.value) == ({"trace_id": "1"}, at)
            assert abs(float(exemplar.timestamp) - time.time()) < 600


def test_what_there_is_no_room_for_is_dropped_and_counted_and_no_error(start):
    with start(workers=1) as server:
        server.get("/order/a")
        for _ in range(2):
            assert server.get("/fill/60000", timeout=60).status == 200
            assert server.get("/order/a").status == 200
        text = server.admin("/metrics").text
        dropped = int(re.search(r"(?m)^atrio_site_metrics_dropped_total{.*} (.*)$", text)[1])
        assert 0 < dropped < 400, "each counts once"
        filled = re.findall(r"(?m)^shop_orders_total{kind=.\d+x+.} (.*)$", text)
        assert filled == ["2.0"] * (400 - dropped), "a number is wrong"
        assert 'shop_orders_total{kind="a"} 3.0' in text.splitlines()
        # In its own process nothing is missing.
        assert server.get("/total").text == str(400 * 2.0 + 3)
        assert server.log().count("there is no room for more of the site's own metrics") == 1


def test_a_site_that_has_chosen_files_keeps_them(start, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    folder.chmod(0o777)
    with start(workers=1, PROMETHEUS_MULTIPROC_DIR=folder) as server:
        assert server.get("/order/a").status == 200
        assert list(folder.glob("counter_*.db"))
        assert shown(server) == ({}, {})


def test_an_exporter_for_flask_needs_nothing(serve):
    with serve("prometheus-flask", "prometheus-flask", workers=2) as server:
        for worker in server.workers():
            with connect_to(server, worker) as connection:
                for _ in range(3):
                    assert connection.request("/hello/Anna").text == "hello Anna"
                itself = connection.request("/metrics").text
        text = server.admin("/metrics", [("Accept", "text/plain")]).text
    for line in ('hellos_total{status="200"} 6.0', 'flask_http_request_total{method="GET",status="200"} 6.0'):
        assert line in text.splitlines() and line in itself.splitlines(), text
    assert 'flask_http_request_duration_seconds_count{method="GET",path="/hello/Anna",status="200"} 6.0' in text
