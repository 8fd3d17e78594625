"""Which requests the access log has, and that each line of it is what README.md says."""

import json
import re
from datetime import UTC, datetime

import pytest

from behaviour.support import refused, site, write
from harness import ROOT, Atrio

TYPES = {
    "timestamp": str,
    "kind": str,
    "site": str,
    "remote_addr": str,
    "method": str,
    "target": str,
    "protocol": str,
    "status": int,
    "bytes": int,
    "duration": float,
    "queue_time": float,
    "request_id": str,
    "trace_id": str,
    "referer": str,
    "user_agent": str,
}
SLOW = """
    import time

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            time.sleep(0.3)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


def logged(server):
    """The lines of a server that has ended."""
    server.stop()
    return [json.loads(line) for line in server.access_log().splitlines()]


def test_every_line_is_one_json_object_with_the_documented_fields(tmp_path):
    with Atrio(site(tmp_path / "shop"), access_log="json") as server:
        began = datetime.now(UTC)
        with server.connect() as connection:
            connection.request("/a?b=%22'", [("Referer", 'http://x/"\\'), ("User-Agent", "caf\xe9")])
            for method in ("POST", "HEAD", "BREW"):
                connection.request("/", method=method)
            connection.request("/", version="HTTP/1.0")
        server.get("/../")
        lines = logged(server)
    assert len(lines) == 6
    for line in lines:
        assert set(TYPES) - {"trace_id", "referer", "user_agent"} <= line.keys() <= TYPES.keys()
        assert all(isinstance(value, TYPES[name]) for name, value in line.items()), line
        assert began.replace(microsecond=0) <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)
        assert (line["kind"], line["site"], line["remote_addr"]) == ("access", "shop", "127.0.0.1")
        assert line["duration"] >= line["queue_time"] >= 0
        assert re.fullmatch("[0-9a-f-]{32,36}", line["request_id"])
    assert [line["status"] for line in lines] == [200] * 5 + [400]
    assert {line["protocol"] for line in lines} == {"HTTP/1.0", "HTTP/1.1"}


def test_the_readme_documents_every_field():
    table = (ROOT / "README.md").read_text().partition("| field | what it is |")[2].partition("\n\n")[0]
    documented = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert documented == list(TYPES)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("json,slow=250ms", {"/slow": 2}),
        ("json,sample=0%", {}),
        ("json,sample=100%", {"/slow": 2, "/": 50}),
        ("json,slow=250ms,sample=0%", {"/slow": 2}),
        ("slow=1h", {}),
    ],
)
def test_slow_requests_and_a_part_of_the_others_can_be_chosen(tmp_path, setting, expected):
    with Atrio(write(tmp_path, SLOW), access_log=setting) as server:
        with server.connect() as connection:
            for path in ["/"] * 50 + ["/slow"] * 2:
                connection.request(path)
        targets = [line["target"] for line in logged(server)]
    assert {target: targets.count(target) for target in targets} == expected


def test_a_sample_is_about_as_large_as_was_asked_for(tmp_path):
    with Atrio(write(tmp_path, SLOW), access_log="json,sample=20%") as server:
        with server.connect() as connection:
            for _ in range(50):
                connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 40)
                assert all(connection.reply().status == 200 for _ in range(40))
        # Of 2000; less likely than 1 in 10^9 to be out of it.
        assert 290 < len(logged(server)) < 510


@pytest.mark.parametrize(
    "setting", ["jsn", "slow", "slow=soon", "sample=5", "sample=200%", "off,slow=1s", "json,common"]
)
def test_a_wrong_choice_is_refused(tmp_path, setting):
    refused(sites=site(tmp_path), access_log=setting, says=["ATRIO_ACCESS_LOG", "slow=1s"])
