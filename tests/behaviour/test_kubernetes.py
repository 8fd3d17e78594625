"""A rolling restart as Kubernetes makes it, with the pod of config/kubernetes: no request is lost.

The test is kubelet, endpoints and load balancer. All times are the manifest's, a tenth as long; ATRIO_TEST_SCALE=1 takes their full length."""

import itertools
import os
import random
import threading
import time
from contextlib import ExitStack
from signal import SIGTERM

from behaviour.support import site
from harness import Atrio, Connection, eventually, free_port
from manifests import CONTAINER, ENVIRONMENT, POD, seconds

SCALE = float(os.environ.get("ATRIO_TEST_SCALE", "0.1"))
LAG = 5 * SCALE
"""How long load balancers do not know that a pod has come or goes."""
GRACE = POD["spec"]["terminationGracePeriodSeconds"] * SCALE
CLIENTS = 8
SETTINGS = {
    name: f"{seconds(value) * SCALE * 1000:.0f}ms" if name.startswith("ATRIO_DRAIN_") else value
    for name, value in ENVIRONMENT.items()
}
IMPORT = 1
"""Seconds that the site takes to be imported."""
SLOW = 0.3
VALUE = f"time.sleep({SLOW} if environ['PATH_INFO'] == '/slow' else 0) or os.getpid()"


class Probe:
    """Asks as kubelet does; keeps every answer with its time."""

    def __init__(self, server, name):
        self.server, self.told = server, CONTAINER[f"{name}Probe"]
        self.path = self.told["httpGet"]["path"]
        self.answers = []

    def ask(self):
        """Whether it succeeds; None if there is nobody who could answer."""
        try:
            with Connection(self.server.admin_port, self.told["timeoutSeconds"]) as connection:
                answer = connection.request(self.path).status == 200
        except (OSError, EOFError):
            return None
        self.answers.append((time.monotonic(), answer))
        return answer

    def failed(self):
        """As often in a row as its threshold allows."""
        last = self.answers[-self.told["failureThreshold"] :]
        return len(last) == self.told["failureThreshold"] and not any(answer for _, answer in last)


class Pod:
    """An instance, and the kubelet that looks after it."""

    def __init__(self, folder, endpoints):
        port = free_port()
        self.server = Atrio(folder, ready=False, admin_listen=f"127.0.0.1:{port}", **SETTINGS)
        self.server.admin_port = port
        self.endpoints, self.ready, self.ended = endpoints, threading.Event(), threading.Event()
        self.startup, self.readiness, self.liveness = (
            Probe(self.server, name) for name in ("startup", "readiness", "liveness")
        )
        self.told_to_end = None
        self.kubelet = threading.Thread(target=self.look_after, daemon=True)

    def start(self):
        eventually(lambda: self.startup.ask() is not None, what="the first answer")
        assert not self.startup.answers[0][1] and self.liveness.ask() and not self.readiness.ask(), "it imports"
        self.kubelet.start()
        return self

    def look_after(self):
        while not self.startup.ask():
            time.sleep(self.startup.told["periodSeconds"] * SCALE)
        self.server.wait_ready()
        while not self.ended.is_set():
            self.liveness.ask()
            if self.readiness.ask() and not self.ready.is_set():
                self.ready.set()
                self.endpoints.add(self)
            time.sleep(self.readiness.told["periodSeconds"] * SCALE / 4)

    def terminate(self):
        """SIGTERM at the moment at which endpoints begin to hear of it; its exit code."""
        self.endpoints.remove(self)
        self.told_to_end = time.monotonic()
        self.server.signal(SIGTERM)
        code = self.server.wait(GRACE)
        self.ended.set()
        self.kubelet.join(20)
        return code


class Endpoints:
    """What load balancers know: the truth, LAG later."""

    def __init__(self):
        self.known, self.changed = [], threading.Lock()

    def later(self, change):
        def apply():
            with self.changed:
                self.known = change(self.known)

        timer = threading.Timer(LAG, apply)
        timer.daemon = True
        timer.start()

    def add(self, pod):
        self.later(lambda known: [*known, pod])

    def remove(self, pod):
        self.later(lambda known: [other for other in known if other is not pod])


class Client(threading.Thread):
    """Asks without a pause, each time on a new connection, or on one for as long as it lasts; forgives nothing."""

    def __init__(self, endpoints, number):
        super().__init__(daemon=True)
        self.endpoints, self.keeps, self.paths = endpoints, number % 2 == 0, itertools.cycle(["/", "/", "/slow"])
        self.turn, self.leaves = itertools.count(number), threading.Event()
        self.served, self.lost = [], []

    def run(self):
        connection = None
        while not self.leaves.is_set():
            pods = self.endpoints.known
            pod = pods[next(self.turn) % len(pods)]
            try:
                connection = connection or pod.server.connect()
                reply = connection.request(next(self.paths))
                assert reply.status == 200 and reply.complete, reply
                self.served.append(reply.text)
                if not self.keeps or (reply.header("connection") or "").lower() == "close":
                    connection.close()
                    connection = None
            except (AssertionError, EOFError, OSError, ValueError) as error:
                self.lost.append(f"{time.monotonic():.3f}: {error!r}")
                connection = None
            time.sleep(random.uniform(0, 0.02))


def test_a_rolling_restart_under_load_loses_no_request(tmp_path):
    folder = site(tmp_path / "site", VALUE, f"import time\ntime.sleep({IMPORT})")
    endpoints = Endpoints()
    with ExitStack() as cluster:

        def another():
            pod = Pod(folder, endpoints)
            cluster.callback(pod.server.stop)
            return pod.start()

        old = [another() for _ in range(2)]
        eventually(lambda: len(endpoints.known) == 2, what="two endpoints")
        clients = [Client(endpoints, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        eventually(lambda: all(len(client.served) > 5 for client in clients), what="answers")
        new = []
        for pod in old:
            new.append(another())
            assert new[-1].ready.wait(20)
            assert pod.terminate() == 0, "before it would have been killed"
        eventually(lambda: {*endpoints.known} == {*new}, what="the new endpoints")
        before = [len(client.served) for client in clients]
        eventually(lambda: all(len(c.served) > n + 5 for c, n in zip(clients, before, strict=True)), what="answers")
        for client in clients:
            client.leaves.set()
        for client in clients:
            client.join(20)
        assert [loss for client in clients for loss in client.lost] == []
        served = [pid for client in clients for pid in client.served]
        assert len(served) > 200
        assert len({*served}) == sum(len(pod.server.workers()) for pod in new) + 2, "every pod has served"

        for pod in [*old, *new]:
            assert all(answer for _, answer in pod.liveness.answers), "no reason to start it anew"
            assert not pod.startup.failed() and pod.startup.answers[-1][1]
        for pod in old:
            during = [answer for at, answer in pod.readiness.answers if at > pod.told_to_end]
            # The signal may be on its way for a while, as through Docker.
            during = [*itertools.dropwhile(bool, during)]
            assert len(during) > 3 and not any(during), "it says that it leaves, while it still serves"
            assert pod.readiness.failed()
