"""What ships for Prometheus and Grafana works with a real Prometheus that scrapes a running Atrio."""

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from signal import SIGKILL
from urllib.parse import urlencode

import pytest

from behaviour.support import gone, write
from behaviour.test_config import free_port
from harness import PATIENCE, ROOT, Atrio, Connection, eventually

CONFIG = ROOT / "config/prometheus"
DASHBOARD = json.loads((ROOT / "config/grafana/atrio.json").read_text())
SITE = """
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise ValueError
        start_response("200 OK", [])
        environ["wsgi.input"].read()
        return [b"x" * 100]
"""


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_promtool_passes_the_rules_and_every_alert_is_tested():
    rules = (CONFIG / "atrio.rules.yaml").read_text()
    check = promtool("check", "rules", "--lint=all", "--lint-fatal", CONFIG / "atrio.rules.yaml")
    assert check.returncode == 0, check
    tests = ROOT / "tests/observe/rules.test.yaml"
    check = promtool("test", "rules", tests)
    assert check.returncode == 0, check
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) == rules.count("summary: ") == rules.count("description: ")
    assert set(alerts) == set(re.findall(r'alertname="(\w+)"', tests.read_text()))


class Prometheus:
    """A server that scrapes as `config/prometheus` says, only more often."""

    def __init__(self, folder, target):
        text = (CONFIG / "prometheus.yaml").read_text()
        text = text.replace("15s", "250ms").replace("localhost:9090", target)
        text = text.replace("atrio.rules.yaml", str(CONFIG / "atrio.rules.yaml"))
        (folder / "prometheus.yaml").write_text(text)
        check = promtool("check", "config", folder / "prometheus.yaml")
        assert check.returncode == 0, check
        self.port, self.log = free_port(), folder / "log"
        with open(self.log, "wb") as log:
            options = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
            options.append(f"--web.listen-address=127.0.0.1:{self.port}")
            self.process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
        eventually(self.is_ready, what="Prometheus")

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            with Connection(self.port) as connection:
                return connection.request("/-/ready").status == 200
        except ConnectionRefusedError:
            return False

    def api(self, path, **arguments):
        with Connection(self.port) as connection:
            answer = json.loads(connection.request(f"/api/v1/{path}?{urlencode(arguments)}").body)
        assert answer["status"] == "success", (path, arguments, answer)
        return answer["data"]

    def query(self, expression):
        """The series of an instant query, NaN left out."""
        return [s for s in self.api("query", query=expression)["result"] if s["value"][1] != "NaN"]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()


@contextmanager
def scraped(folder):
    """Atrio, and a Prometheus that has seen load, a crash and a reload of it."""
    (folder / "prometheus").mkdir()
    with Atrio(write(folder / "shop", SITE), workers=2) as server:
        prometheus = Prometheus(folder / "prometheus", f"127.0.0.1:{server.admin_port}")
        try:
            eventually(lambda: prometheus.query("atrio_generation == 1"), what="a scrape")
            victim = server.workers()[0]
            os.kill(victim, SIGKILL)
            gone(victim)
            server.signal(1)
            server.hear("(?m)^READY=1$")

            def loaded():
                for path in ("/", "/fail", "/../"):
                    server.get(path, method="POST", body=b"x" * 1000)
                return prometheus.query("rate(http_server_request_duration_seconds_count[1m]) > 0")

            eventually(loaded, what="rates")
            began = time.time()
            eventually(lambda: loaded() and prometheus.query(f"timestamp(atrio_generation == 2) > {began}"))
            yield server, prometheus
        finally:
            prometheus.stop()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with scraped(tmp_path_factory.mktemp("prometheus")) as (_, prometheus):
        yield prometheus


def test_prometheus_scrapes_without_complaint(prometheus):
    (target,) = prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    (units,) = prometheus.api("metadata", metric="http_server_request_duration_seconds").values()
    assert units == [{"type": "histogram", "help": units[0]["help"], "unit": "seconds"}], "OpenMetrics tells units"


def test_every_rule_is_healthy_and_every_recorded_one_has_series(prometheus):
    def evaluated():
        rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
        return all(rule["health"] == "ok" for rule in rules) and rules

    rules = eventually(evaluated, what="all rules to be evaluated")
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert len(recorded) == 7
    for name in recorded:
        eventually(lambda name=name: prometheus.query(name), what=name)


def expressions():
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def filled(expression):
    """An expression as Grafana sends it."""
    for variable, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$site", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def test_every_query_of_the_dashboard_returns_series(prometheus):
    empty = {name for name, expression in expressions() if not prometheus.query(filled(expression))}
    assert not empty


def test_every_variable_of_the_dashboard_has_values(prometheus):
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", filled(query)).groups()
        assert prometheus.api(f"label/{label}/values", **{"match[]": series})


def test_every_metric_is_on_the_dashboard(prometheus):
    """But what says of the supervisor no more than others do."""
    named = {name for _, expression in expressions() for name in re.findall(r"(?:atrio|http|process)_\w+", expression)}
    metrics = {re.sub("_(bucket|sum|count)$", "", name) for name in prometheus.api("label/__name__/values")}
    metrics = {name for name in metrics if re.match("atrio_|http_", name)}
    assert metrics <= {re.sub("_(bucket|sum|count)$", "", name) for name in named}
