"""`make bench` works: its runs have figures, for the terminal and for the README. What the figures are is not tested."""

import os
import re
import subprocess
import sys

import pytest

import harness
from bench import loads
from bench.instance import Failed, Instance, running
from bench.measure import Figures, Sample
from bench.runs import Peers, Scaling, Telling
from bench.servers import SERVERS
from harness import ROOT, TESTS, clean_environment
from real.conftest import build_venv

pytestmark = pytest.mark.binary("it is the binary that is compared")
FIGURE = r" +([\d.]+)"


def bench(*args, python=sys.executable, binary=harness.BINARY):
    return subprocess.run(
        [python, "-m", "bench", "--rounds", "1", "--seconds", "1", *map(str, args)],
        cwd=TESTS,
        env=clean_environment(ATRIO_BINARY=os.path.abspath(binary)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_told_on_the_terminal_and_in_the_readme(tmp_path):
    before = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(before)
    python = build_venv("frameworks") / "bin/python"
    given = ["--servers", "atrio,floor", "--loads", "json,memory", "--readme", tmp_path / "README.md"]
    # Of the floor only what it cannot do is wanted, and it need not be built.
    result = bench(*given, python=python)
    assert result.returncode == 0, result
    json, memory = result.stdout.split("\n\n", 1)
    cpu, rate, p50, p99, pss = map(float, re.search(rf"(?m)^atrio{FIGURE} +—{FIGURE} +—{FIGURE * 3}$", json).groups())
    assert cpu > 1 and rate > 1 and 0 < p50 <= p99 and pss > 1
    assert re.search(r"(?m)^floor( +—){7} +is no WSGI server$", json)
    assert float(re.search(rf"(?m)^atrio{FIGURE} +—$", memory)[1]) > 1

    after = (tmp_path / "README.md").read_text()
    start, end = "<!-- performance -->\n", "<!-- /performance -->\n"
    assert [after.split(start)[0], after.split(end)[1]] == [before.split(start)[0], before.split(end)[1]]
    told = after.split(start)[1].split(end)[0]
    assert re.search(r"^\d{4}-\d\d-\d\d, \d+ × .*, CPython 3\..*: Atrio \d.*medians of 1 round of 1 s", told)
    assert re.search(rf"(?m)^\| 8 KiB of JSON \|{FIGURE} \| — \|$", told)
    assert re.search(rf"of PSS: Atrio{FIGURE}\.$", told.strip())


def test_a_server_without_figures_is_shown_with_the_reason():
    result = bench("--servers", "floor", "--loads", "hello", binary="/nonexistent/atrio")
    assert result.returncode == 0, result
    assert re.search(r"(?m)^floor( +—){7} +does not start: .*No such file", result.stdout)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--servers", "atrio,apache"], "apache: not one of atrio,"),
        (["--loads", "hello,goodbye"], "goodbye: not one of hello,"),
        (["--scaling", "--readme"], "no place for --scaling"),
        (["--telemetry", "--readme"], "no place for --telemetry"),
    ],
)
def test_what_it_does_not_know_is_refused(args, words):
    result = bench(*args)
    assert result.returncode == 2 and words in result.stderr


def test_the_site_answers_every_load():
    scaling = (case.loads for case in Scaling(["atrio"]).cases)
    asked = {*loads.LOADS.values(), loads.CPU, *(load for some in scaling for load in some)}
    assert len(asked) > 25
    with running(SERVERS["atrio"], "loads", 1, os.sched_getaffinity(0), loads.LOADS["hello"]) as instance:
        for load in asked:
            instance.ask(load)
        with pytest.raises(Failed, match="answers 200 with 14 bytes"):
            instance.ask(loads.Load("", "/", 1, answer=15))
        with pytest.raises(Failed, match="answers 500"):
            instance.ask(loads.Load("", "/nothing", 1, answer=14))


def test_the_cost_of_threads_and_of_what_was_reaped_counts():
    """A process that computes for 0.2 s in a thread that has ended, 0.2 s in a child that it has reaped, and in one that lives."""
    work = "import time\ndef work(until=0.2):\n while time.process_time() < until: pass"
    code = f"""{work}
import os, sys, threading
thread = threading.Thread(target=work); thread.start(); thread.join()
if os.fork() == 0: work(); os._exit(0)
os.wait()
if os.fork() == 0: work(); print(flush=True); sys.stdin.read(); os._exit(0)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert Instance(0, process).cpu() >= 0.6 - 2 / os.sysconf("SC_CLK_TCK")


def figures(cases, **changed):
    """As if each case had been measured twice; the second time everything took twice as long."""
    measured = Figures()
    for case in cases:
        for load in case.loads:
            one = {
                "cpu": 10.0,
                "rate": 1e5,
                "p50": 0.1,
                "p99": 1.0,
                "pss": 30.0,
                "busy": load.connections,
                "errors": {},
            }
            one |= changed.get(case.server, {})
            measured.add(case, load, Sample(**one))
            measured.add(case, load, Sample(**one | {"cpu": 2 * one["cpu"], "rate": one["rate"] / 2}))
    return measured


def test_ratios_are_taken_round_by_round():
    peers = Peers(["atrio", "granian", "uwsgi"], ["hello"])
    slower = {"cpu": 40.0, "busy": 4.0, "errors": {"read": 2, "write": 0}}
    measured = figures(peers.cases, granian={"cpu": 20.0}, uwsgi=slower)
    _, atrio, granian, uwsgi = peers.text(measured).splitlines()
    assert re.match(r"atrio +15.0 +— +75000 ", atrio)
    assert re.match(r"granian +30.0 +0.50 \(0.50 – 0.50\) +75000 +1.00 ", granian)
    assert re.match(r"uwsgi +60.0 +0.25 .*30.0  4 read, serves 4 of 64 connections$", uwsgi)
    assert "- uWSGI, hello, 64 connections: 4 read, serves 4 of 64 connections" in peers.readme(measured)


def test_scaling_has_a_row_for_each_step():
    scaling = Scaling(["atrio"])
    text = scaling.text(figures(scaling.cases))
    steps = [*(load.what.partition(", ")[2] for load in loads.CONNECTIONS), *map(loads.in_words, loads.SIZES)]
    assert {"1 connection", "1000 connections", "1 KiB", "16 MiB"} <= set(steps)
    for step in steps:
        assert re.search(rf"(?m)^{step}( +[\d.]+){{8}}$", text), step


def test_telling_is_compared_with_the_same_server_in_each_round():
    telling = Telling()
    text = telling.text(figures(telling.cases, telling={"cpu": 10.4}))
    assert re.search(r"(?m)^hello, 64 connections +15.0 +15.6 +1.04 \(1.04 – 1.04\)", text), text


def test_what_telling_costs_is_measured():
    result = bench("--telemetry")
    assert result.returncode == 0, result
    for load in ("hello, 64 connections", "8 KiB of JSON"):
        assert re.search(rf"(?m)^{load}{FIGURE * 3} \([\d. –]+\) *$", result.stdout), result
    assert re.search(r"(?m)^[1-9]\d* exports of traces$", result.stdout), result
