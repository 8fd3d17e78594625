"""Mixed load for a long time: hello, uploads, streams, a slow application, errors, clients that vanish. Fails if anything grows.

usage: soak.py [MINUTES]     (10 unless told)
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from harness import Atrio

CLIENTS = 6
WARM_UP = 0.2
"""The part of the run after which memory has to be flat."""
MAX_GROWTH = 1.10
SLACK = 4
"""What may come and go: connections of clients that have just left, threads that write files."""
BODY = bytes(2_000_000)
POST = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def hello(server):
    with server.connect() as c:
        for _ in range(20):
            # Another request's answer, or one that comes twice, would not fit.
            path = f"/{random.getrandbits(64)}"
            assert c.request(path).text == path


def upload(server):
    with server.connect() as c:
        for size in (10, 5_000, 100_000, 300_000, len(BODY)):
            assert c.request("/upload", method="POST", body=BODY[:size]).text == str(size)


def stream(server):
    assert len(server.get("/stream").body) == 64 * 16384


def slow(server):
    assert server.get("/slow").body == b"slow"


def fail(server):
    assert server.get("/fail").status == 500


def vanish_in_request(server):
    with server.connect() as c:
        size = random.choice([1000, 300_000, len(BODY)])
        c.send(random.choice([b"GET / HT", POST % size + BODY[: random.randrange(size)]]))


def vanish_in_response(server):
    with server.connect() as c:
        path, number = random.choice([(b"/stream", 1), (b"/", 20)])
        c.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path * number)
        if random.getrandbits(1):
            c.more()


LOADS = {hello: 20, upload: 5, stream: 1, slow: 1, fail: 1, vanish_in_request: 1, vanish_in_response: 1}
"""And how many requests each makes."""


def sample(server):
    worker = server.workers()[0]
    proc = Path(f"/proc/{worker}")
    pss = next(int(x.split()[1]) for x in (proc / "smaps_rollup").read_text().splitlines() if x.startswith("Pss:"))
    found = json.loads(server.get("/leaks").body)
    # The connections of the other clients come and go: the least of a few looks is what is there for good.
    found["fds"] = min(len(os.listdir(proc / "fd")) for _ in range(20) if not time.sleep(0.02))
    return found | {"pid": worker, "os_threads": len(os.listdir(proc / "task")), "pss_mib": round(pss / 1024, 1)}


def main(minutes):
    requests = {load.__name__: 0 for load in LOADS}
    errors = []
    with Atrio("soak", threads=4, access_log="off", log="off", keepalive_timeout="5s") as server:
        end = time.monotonic() + minutes * 60

        def client(seed):
            pick = random.Random(seed)
            while time.monotonic() < end and not errors:
                load = pick.choice([*LOADS])
                try:
                    load(server)
                    requests[load.__name__] += LOADS[load]
                except (AssertionError, EOFError, OSError, ValueError) as error:
                    errors.append(f"{load.__name__}: {error!r}")

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        samples = []
        while time.monotonic() < end and not errors:
            time.sleep(minutes * 60 / 20)
            samples.append(sample(server))
            print(samples[-1], flush=True)
        for thread in threads:
            thread.join()
        samples.append(sample(server))
        print(samples[-1], requests, sum(requests.values()), flush=True)
    assert not errors, errors
    settled = samples[int(len(samples) * WARM_UP)]
    grown = [
        f"{name}: {settled[name]} -> {samples[-1][name]}"
        for name in settled
        if samples[-1][name] > settled[name] * MAX_GROWTH + SLACK
        or (name == "pid" and samples[-1][name] != settled[name])
    ]
    assert not grown, grown
    assert server.process.returncode == 0
    print("flat")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
