"""Servers by turns under the same loads: wrk asks, /proc tells the cost."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .instance import Failed, on_processors, running
from .servers import SERVERS, TELLING

SCRIPT = Path(__file__).with_name("wrk.lua")
ALLOWED = sorted(os.sched_getaffinity(0))
SERVERS_CPU, LOADS_CPU = ALLOWED[:1], ALLOWED[-1:]
"""Server and load keep out of each other's way, as far as the machine has two processors."""
STARVED = 0.3
"""With a smaller part of its connections busy, a server lets the others wait: wrk's percentiles know nothing of those."""


@dataclass(frozen=True)
class Case:
    """One way to run a server."""

    server: str
    loads: tuple
    site: str = "loads"
    workers: int = 1
    pinned: bool = True
    """To one processor; else server and load may use all."""


@dataclass(frozen=True)
class Sample:
    cpu: float
    """µs of the processor for each request, user's and system's."""
    rate: float
    """Requests a second."""
    p50: float
    p99: float
    """ms until the answer."""
    pss: float
    """MiB, right after the load."""
    busy: float
    """Connections on which a request was under way, on average."""
    errors: dict


class Figures:
    """What was measured, round by round: a Sample, or the reason why there is none."""

    def __init__(self):
        self.rounds = defaultdict(list)

    def add(self, case, load, sample):
        self.rounds[case, load].append(sample)

    def median(self, case, load, name):
        found = [getattr(sample, name) for sample in self.rounds[case, load] if isinstance(sample, Sample)]
        return median(found) if found else None

    def ratios(self, case, other, load, name):
        """Of one case to another, in each round: what slows a round down slows both."""
        pairs = zip(self.rounds[case, load], self.rounds[other, load], strict=True)
        both = [pair for pair in pairs if all(isinstance(sample, Sample) for sample in pair)]
        return [getattr(a, name) / getattr(b, name) for a, b in both if getattr(b, name)]

    def errors(self, case, load):
        """In one line: how many of which kind wrk has seen, who was left to wait, or why there are no figures."""
        reasons, seen = [], Counter()
        for sample in self.rounds[case, load]:
            if isinstance(sample, Sample):
                seen.update(sample.errors)
            elif sample not in reasons:
                reasons.append(sample)
        busy = self.median(case, load, "busy")
        if busy and busy < load.connections * STARVED:
            reasons.append(f"serves {busy:.0f} of {load.connections} connections")
        return ", ".join([*(f"{number} {kind}" for kind, number in seen.items() if number), *reasons])


def measure(cases, rounds, seconds):
    """All cases in turn, then again: what changes on the machine meanwhile changes for all of them."""
    figures = Figures()
    for number in range(rounds):
        for case in cases:
            print(f"round {number + 1} of {rounds}: {case.server}", file=sys.stderr, flush=True)
            for load, sample in under_load(case, seconds):
                figures.add(case, load, sample)
    return figures


def under_load(case, seconds):
    """(load, Sample or reason) for each load of a case."""
    server, left = TELLING if case.server == "telling" else SERVERS[case.server], []
    for load in case.loads:
        if reason := server.cannot(load):
            yield load, reason
        else:
            left.append(load)
    cpus = SERVERS_CPU if case.pinned else ALLOWED
    try:
        if left:
            with running(server, case.site, case.workers, cpus, left[0]) as instance:
                wrk(instance, left[0], 1, case.pinned)
                while left:
                    yield left[0], sample(instance, left[0], seconds, case.pinned)
                    left.pop(0)
    except Failed as failed:
        yield from ((load, str(failed)) for load in left)


def sample(instance, load, seconds, pinned):
    try:
        instance.ask(load)
        before = instance.cpu()
        said = wrk(instance, load, seconds, pinned)
    except Failed as failed:
        return str(failed)
    cpu, requests = instance.cpu() - before, said["requests"]
    if not requests:
        return "answers none of wrk's requests"
    rate = requests / said["duration"]
    return Sample(
        cpu=cpu / requests * 1e6,
        rate=rate * 1e6,
        p50=said["p50"] / 1e3,
        p99=said["p99"] / 1e3,
        pss=instance.pss(),
        busy=rate * said["mean"],
        errors=said["errors"],
    )


def wrk(instance, load, seconds, pinned):
    """What wrk.lua says at the end."""
    url = f"http://127.0.0.1:{instance.port}{load.path}"
    command = ["wrk", "--threads", "1", "--connections", str(load.connections), "--duration", str(seconds)]
    command += ["--script", SCRIPT, url, "--", str(load.upload), "close" if load.close else "keep-alive"]
    command = on_processors(LOADS_CPU if pinned else ALLOWED, command)
    try:
        said = subprocess.check_output(command, text=True, stderr=subprocess.STDOUT, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise Failed("wrk does not come to an end") from None
    except subprocess.CalledProcessError as error:
        raise Failed(f"wrk: {error.output.strip()}") from None
    return json.loads(said.splitlines()[-1])
