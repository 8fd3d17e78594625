"""What a request costs Atrio and other WSGI servers: all in one run, by turns, medians of the rounds.

CPU µs are those of the user and the system in all processes of a server, for each request: the figure that a busy machine
distorts least. `Atrio/it` is Atrio's figure to that server's, taken round by round: the median, and in brackets the least and
the greatest.
"""

import argparse
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from harness import ROOT

from . import readme
from .loads import LOADS
from .measure import LOADS_CPU, measure
from .runs import Cores, Memory, Peers, Scaling, Telling
from .servers import COLLECTOR, SERVERS

ALL = [*LOADS, "memory", "cores"]


def chosen_from(known):
    def parse(text):
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return names

    return parse


def arguments():
    parser = argparse.ArgumentParser(
        prog="make bench",
        usage='make bench ARGS="…"',
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--servers", type=chosen_from(SERVERS), metavar="A,B", help=f"of {','.join(SERVERS)}")
    parser.add_argument("--loads", type=chosen_from(ALL), default=ALL, metavar="A,B", help=f"of {','.join(ALL)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--seconds", type=int, default=3, help="of each load (3)")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead of the loads: 1 and 2 workers, 1 … 1000 connections, bodies of 1 KiB … 16 MiB",
    )
    parser.add_argument(
        "--telemetry",
        action="store_true",
        help="instead of the loads: Atrio with access log and traces, and without",
    )
    parser.add_argument(
        "--readme",
        nargs="?",
        const=ROOT / "README.md",
        metavar="FILE",
        help="write the figures of the loads into the README",
    )
    given = parser.parse_args()
    for name in ("scaling", "telemetry"):
        if getattr(given, name) and given.readme:
            parser.error(f"the README has no place for --{name}")
    return given


def chosen_runs(given):
    few = given.servers or ["atrio", "granian"]
    if given.telemetry:
        return [Telling()]
    if given.scaling:
        return [Scaling(few)]
    runs = [Peers(given.servers or list(SERVERS), [name for name in given.loads if name in LOADS])]
    runs += [Memory(few)] if "memory" in given.loads else []
    runs += [Cores(few)] if "cores" in given.loads else []
    return [run for run in runs if any(case.loads for case in run.cases)]


class Collector(BaseHTTPRequestHandler):
    """Takes all traces, and says so with an empty message."""

    exports = 0

    def do_POST(self):
        Collector.exports += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    given, told = arguments(), []
    # The collector too, and what all this allocates, stay off the servers' processor.
    os.sched_setaffinity(0, LOADS_CPU)
    if given.telemetry:
        collector = ThreadingHTTPServer(("127.0.0.1", COLLECTOR), Collector)
        Thread(target=collector.serve_forever, daemon=True).start()
    for run in chosen_runs(given):
        figures = measure(run.cases, given.rounds, given.seconds)
        print(run.text(figures), end="\n\n", flush=True)
        if given.readme:
            told.append(run.readme(figures))
    if given.telemetry:
        print(Collector.exports, "exports of traces")
    if given.readme:
        readme.write(given.readme, given.servers or list(SERVERS), given.rounds, given.seconds, told)


if __name__ == "__main__":
    main()
