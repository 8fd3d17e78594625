import os
import re
import threading

from prometheus_client import Counter, Gauge, Histogram, Summary, generate_latest

ORDERS = Counter("shop_orders", "Orders\nby kind.", ["kind"])
WAIT = Histogram("shop_wait_seconds", "Waits.", ["queue"], buckets=(0.1, 1, 10))
SIZE = Summary("shop_size_bytes", "Sizes.")
IMPORTS = Counter("shop_imports", "Imports of the site.")
MODES = [mode for mode in os.environ["MODES"].split(",") if mode in Gauge._MULTIPROC_MODES]
GAUGES = {mode: Gauge(f"shop_{mode}_depth", f"A gauge, {mode}.", ["of"], multiprocess_mode=mode) for mode in MODES}
VERSION = Gauge("shop_version", "Set by the import.", multiprocess_mode="livesum")
TAKEN = Gauge("atrio_workers", "A name of Atrio's.", multiprocess_mode="max")

IMPORTS.inc()
VERSION.set(3)
TAKEN.set(42)


def count(times):
    for _ in range(times):
        ORDERS.labels("many").inc()
        WAIT.labels("many").observe(0.5)
        SIZE.observe(2)


def order(kind):
    ORDERS.labels(kind=kind).inc()
    WAIT.labels(kind).observe(5)
    SIZE.observe(7)


def many(times):
    threads = [threading.Thread(target=count, args=[int(times)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def gauges(value):
    for gauge in GAUGES.values():
        gauge.labels("a").set(float(value))


def up(by):
    for mode, gauge in GAUGES.items():
        if "recent" not in mode:
            gauge.labels("a").inc(float(by))
            gauge.labels("a").dec()


def remove(_):
    for gauge in GAUGES.values():
        gauge.remove("a")


def fork(value):
    pid = os.fork()
    if not pid:
        order("forked")
        gauges(value)
        os._exit(0)
    os.waitpid(pid, 0)


def traced(trace):
    ORDERS.labels("traced").inc(exemplar={"trace_id": trace})
    WAIT.labels("traced").observe(0.5, {"trace_id": trace})


def fill(size):
    for number in range(400):
        ORDERS.labels(str(number) + "x" * int(size)).inc()


def odd(_):
    ORDERS.labels('"\\\n\ud800é').inc()


ACTIONS = {f.__name__: f for f in (order, many, gauges, up, remove, fork, traced, fill, odd)}


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    if path == "/latest":
        return [generate_latest()]
    if path == "/total":
        samples = next(iter(ORDERS.collect())).samples
        return [str(sum(sample.value for sample in samples if sample.name.endswith("_total"))).encode()]
    if found := re.fullmatch(r"/(\w+)/(.*)", path):
        ACTIONS[found[1]](found[2])
    return [str(os.getpid()).encode()]
