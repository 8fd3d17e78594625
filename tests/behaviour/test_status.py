"""`/status.json`, and `/status` for people: what workers and app threads do now, and what went wrong."""

import json
import os
import re
import time
from signal import SIGHUP, SIGKILL

from behaviour.support import answer, gone, later, site, write
from harness import Atrio, eventually

KEYS = {
    "": "arch live memory_bytes pid python ready sites stopping time uptime_seconds version",
    "sites": "connections crashes errors exceptions generation incoming_generation name queue_length reloads "
    "reloads_failed requests threads threads_busy workers",
    "workers": "connections cpu_seconds generation memory_bytes pid progress_seconds queue_length requests state "
    "threads uptime_seconds worker",
    "threads": "name request seconds state",
    "request": "method path request_id",
    "errors": "kind message requests time worker",
    "requests": "method path request_id",
}
"""The names of `/status.json`, by what they stand in."""


def status(server):
    reply = server.admin("/status.json")
    assert (reply.status, reply.header("content-type"), reply.header("cache-control")) == (
        200,
        "application/json",
        "no-store",
    )
    return json.loads(reply.body)


def shop(server):
    """Its one site."""
    [found] = status(server)["sites"]
    return found


def busy(server):
    """{path: thread} of those that run."""
    threads = [thread for worker in shop(server)["workers"] for thread in worker["threads"]]
    return {thread["request"]["path"]: thread for thread in threads if thread["request"]}


def errors(server, count=1):
    """The errors, once there are so many."""
    return eventually(lambda: (found := shop(server)["errors"]) and len(found) >= count and found)


def names(value, place=""):
    if isinstance(value, list):
        for one in value:
            names(one, place)
    elif isinstance(value, dict):
        assert sorted(value) == KEYS[place].split()
        for key, below in value.items():
            names(below, key)


def test_an_idle_instance_is_told(tmp_path):
    with Atrio(site(tmp_path / "shop"), workers=2, threads=3) as server:
        told = status(server)
        assert told["live"] and told["ready"] and not told["stopping"]
        assert told["pid"] == server.pid or told["pid"] == 1
        assert 0 < told["uptime_seconds"] < 60 and told["memory_bytes"] > 1 << 20
        [found] = told["sites"]
        assert (found["name"], found["generation"], found["incoming_generation"], found["errors"]) == (
            "shop",
            1,
            None,
            [],
        )
        assert sorted(worker["worker"] for worker in found["workers"]) == [0, 1]
        for worker in found["workers"]:
            assert (worker["state"], worker["generation"]) == ("ready", 1)
            assert 0 < worker["uptime_seconds"] < 60 and worker["progress_seconds"] < 10
            idle = {"state": "idle", "seconds": None, "request": None}
            assert worker["threads"] == [{"name": f"atrio-app-{number}"} | idle for number in (1, 2, 3)]
        for _ in range(5):
            server.get()
        eventually(lambda: shop(server)["requests"] == 5)
        eventually(lambda: all(worker["memory_bytes"] > 1 << 20 for worker in shop(server)["workers"]))


def test_the_names_are_a_contract(gates):
    with Atrio("gates", GATES=gates.folder) as server:
        asked = later(server.get, "/wait/a")
        gates.await_request("a")
        os.kill(server.workers()[0], SIGKILL)
        assert asked.exception(20)
        errors(server)
        asked = later(server.get, "/wait/b")
        gates.await_request("b")
        told = status(server)
        assert busy(server) and told["sites"][0]["errors"][0]["requests"]
        names(told)
        gates.open("b")
        assert asked.result(20).status == 200


def test_requests_that_run_are_told_by_name_and_age(gates):
    with Atrio("gates", threads=2, GATES=gates.folder) as server:
        long = "/wait/a/" + "x" * 200
        (gates.folder / "a").mkdir()
        asked = [
            later(server.get, "/wait/a?secret=1", [("X-Request-ID", "mine")]),
            later(server.get, "/stream/b", method="PROPPATCH"),
        ]
        gates.await_request("a")
        gates.await_request("b")
        found = busy(server)
        assert found["/wait/a"]["request"] == {"method": "GET", "path": "/wait/a", "request_id": "mine"}
        assert (found["/wait/a"]["state"], found["/stream/b"]["state"]) == ("runs", "sends")
        assert found["/stream/b"]["request"]["method"] == "PROPPATCH"
        assert {thread["name"] for thread in found.values()} == {"atrio-app-1", "atrio-app-2"}
        ages = [0 <= thread["seconds"] < 60 for thread in found.values()]
        assert ages == [True, True]
        eventually(lambda: busy(server)["/wait/a"]["seconds"] > found["/wait/a"]["seconds"])
        asked.append(later(server.get, long))
        eventually(lambda: shop(server)["queue_length"] == 1)
        assert shop(server)["threads_busy"] == 2
        gates.open("a")
        gates.open("b")
        assert [future.result(20).status for future in asked[:2]] == [200, 200]
        assert eventually(lambda: list(busy(server))) == [long[:104] + "…"]
        gates.open(long.removeprefix("/wait/"))
        assert asked[2].result(20).status == 200
        eventually(lambda: not busy(server))


def test_exceptions_are_told_with_their_request(tmp_path):
    with Atrio(site(tmp_path, "{}[environ['PATH_INFO']]"), workers=2) as server:
        replies = [server.get(f"/{number}") for number in range(30)]
        told = errors(server, 20)
        assert len(told) == 20
        eventually(lambda: shop(server)["exceptions"] == 30)
        assert shop(server)["errors"][0]["message"] == "KeyError: '/29'"
        ids = {reply.header("x-request-id") for reply in replies}
        for error in shop(server)["errors"]:
            [request] = error["requests"]
            assert (error["kind"], error["message"]) == ("exception", f"KeyError: {request['path']!r}")
            assert request["request_id"] in ids
        times = [error["time"] for error in told]
        assert times == sorted(times, reverse=True)
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)


def test_of_a_worker_that_dies_is_told_what_it_ran(gates):
    with Atrio("gates", threads=2, GATES=gates.folder) as server:
        asked = [later(server.get, f"/wait/{name}") for name in "ab"]
        gates.await_request("a")
        gates.await_request("b")
        worker = server.workers()[0]
        os.kill(worker, SIGKILL)
        gone(worker)
        assert [bool(future.exception(20)) for future in asked] == [True, True]
        [error] = errors(server)
        assert (error["kind"], error["worker"], error["message"]) == ("crash", 0, "was killed by SIGKILL")
        assert sorted(request["path"] for request in error["requests"]) == ["/wait/a", "/wait/b"]
        eventually(lambda: [worker["state"] for worker in shop(server)["workers"]] == ["ready"])
        assert not busy(server) and shop(server)["crashes"] == 1


def test_a_reload_is_told_and_why_it_failed(tmp_path, gates):
    top = f"import time\nwhile os.path.exists({str(tmp_path / 'hold')!r}): time.sleep(0.01)"
    folder = site(tmp_path / "site", "environ['PATH_INFO']", top=top)
    with Atrio(folder) as server:
        (tmp_path / "hold").touch()
        server.signal(SIGHUP)
        eventually(lambda: shop(server)["incoming_generation"] == 2)
        assert shop(server)["generation"] == 1 and answer(server, "/x") == "/x"
        (tmp_path / "hold").unlink()
        eventually(lambda: shop(server)["generation"] == 2)
        found = shop(server)
        assert (found["incoming_generation"], found["reloads"], found["reloads_failed"]) == (None, 1, 0)
        write(folder, "raise ValueError('no')")
        server.signal(SIGHUP)
        [error] = errors(server)
        assert (error["kind"], error["worker"], error["requests"]) == ("reload", None, [])
        assert "ValueError" in error["message"]
        found = shop(server)
        assert (found["generation"], found["incoming_generation"], found["reloads_failed"]) == (2, None, 1)


def test_a_site_that_waits_or_computes_is_alive(tmp_path):
    """For longer than the limit of the probe: threads that wait outside the GIL, and others that take it from each other."""
    top = """
    import time
    def run(path):
        end = time.monotonic() + 12
        if path == "/wait":
            time.sleep(12)
        while time.monotonic() < end:
            pass
        return path
    """
    with Atrio(site(tmp_path, "run(environ['PATH_INFO'])", top=top), threads=4) as server:
        asked = [later(server.get, path, timeout=60) for path in ("/wait", "/compute", "/compute", "/compute")]
        eventually(lambda: shop(server)["threads_busy"] == 4)
        while not all(future.done() for future in asked):
            assert server.admin("/livez").status == 200
            time.sleep(0.1)
        assert [future.result().status for future in asked] == [200] * 4
        assert server.admin("/livez").status == 200
