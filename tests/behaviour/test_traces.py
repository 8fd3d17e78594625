"""What a collector hears of requests, what the site and its clients do not notice of that, and what OTEL_* variables say."""

import re
import signal
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from behaviour.support import answer, records, site, write
from collector import Collector, GrpcCollector
from harness import Atrio, eventually, free_port, run

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, INTERNAL = 2, 1
ERROR = 2
STREAM = """
    import time

    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        time.sleep(0.2)
        yield b"last"
"""
FAILS = """
    def application(environ, start_response):
        raise ValueError
"""
SEEN = "{k: v for k, v in environ.items() if k.startswith(('HTTP_', 'atrio.'))}"
"""What the site sees of a request's headers, and of what it is called."""


def traceparent(flags, trace=TRACE):
    return ("Traceparent", f"00-{trace}-{PARENT}-{flags}")


def dropped(server, reason):
    return server.metric(f'atrio_spans_dropped_total{{site="{server.sites.name}",reason="{reason}"}}')


def threads(server):
    """The names of the threads of its worker."""
    (worker,) = server.workers()
    return {(task / "comm").read_text().strip() for task in Path(f"/proc/{worker}/task").iterdir()}


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


PROTOCOLS = pytest.mark.parametrize("protocol", [Collector, GrpcCollector])


def test_a_request_is_a_server_span_with_what_it_consists_of(tmp_path, collector):
    resource = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test%2C1"}
    with Atrio(site(tmp_path / "shop"), **collector.settings, **resource) as server:
        before = time.time_ns()
        reply = server.get("/a%20b?c=d", [("User-Agent", "test")])
        spans = collector.spans(count=4)
    assert set(spans) == {"GET", "queue", "application", "response"}
    root = spans["GET"]
    assert (root.kind, root.parent, root.status.code) == (SERVER, "", 0)
    expected = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/a%20b",
        "url.query": "c=d",
        "server.address": "test",
        "server.port": 80,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test",
        "atrio.request_id": reply.header("x-request-id"),
    }
    assert 0 < root.attributes.pop("network.peer.port") < 65536
    assert root.attributes == expected
    assert (root.resource["service.name"], root.resource["telemetry.sdk.language"]) == ("shop", "rust")
    assert root.resource["deployment.environment.name"] == "test,1"
    assert before <= root.began <= root.ended <= time.time_ns()
    for name in ("queue", "application", "response"):
        span = spans[name]
        assert (span.kind, span.trace, span.parent) == (INTERNAL, root.trace, root.id)
        assert root.began <= span.began <= span.ended <= root.ended, (span, root)
    assert spans["queue"].ended == spans["application"].began <= spans["response"].began
    path, headers, _ = collector.exports[0]
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")


def test_a_trace_is_continued_by_its_parent_s_decision(tmp_path, collector):
    state, baggage = ("Tracestate", "a=1,b=2"), ("Baggage", "user=7")
    with Atrio(site(tmp_path, SEEN), **collector.settings) as server:
        unsampled = answer(server, headers=[traceparent("00", "f" * 32), state, baggage])
        sampled = answer(server, headers=[traceparent("01"), state, baggage])
        spans = collector.spans(TRACE, 4)
    assert spans["GET"].parent == PARENT
    assert {span.state for span in spans.values()} == {"a=1,b=2"}
    assert sampled["HTTP_TRACEPARENT"] == f"00-{TRACE}-{spans['application'].id}-01"
    version, trace, parent, flags = unsampled["HTTP_TRACEPARENT"].split("-")
    assert (version, trace, flags) == ("00", "f" * 32, "00") and parent not in (PARENT, "0" * 16)
    for seen in (sampled, unsampled):
        assert (seen["HTTP_TRACESTATE"], seen["HTTP_BAGGAGE"]) == ("a=1,b=2", "user=7")
    assert {span.trace for span in collector.taken} == {TRACE}, "what its parent has not sampled is not recorded"


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("Traceparent", "00-wrong")],
        [traceparent("01"), traceparent("01")],
        [("Traceparent", f"00-{'0' * 32}-{PARENT}-01")],
    ],
    ids=("none", "malformed", "two", "zero"),
)
def test_without_a_valid_parent_a_trace_begins(tmp_path, collector, given):
    with Atrio(site(tmp_path, SEEN), **collector.settings) as server:
        seen = answer(server, headers=[*given, ("Tracestate", "a=1")])
        spans = collector.spans(count=4)
    root = spans["GET"]
    assert (root.parent, root.state) == ("", "") and root.trace not in (TRACE, "0" * 32)
    assert seen["HTTP_TRACEPARENT"].startswith(f"00-{root.trace}-{spans['application'].id}-")
    assert "HTTP_TRACESTATE" not in seen


def test_a_trace_that_begins_here_is_called_as_its_request(tmp_path, collector):
    with Atrio(site(tmp_path, SEEN), **collector.settings) as server:
        begun, named = answer(server), answer(server, headers=[("X-Request-ID", "own")])
        continued = answer(server, headers=[traceparent("00")])
    assert begun["atrio.request_id"] == begun["atrio.trace_id"] == begun["HTTP_TRACEPARENT"][3:35]
    assert named["atrio.request_id"] == "own" and re.fullmatch("[0-9a-f]{32}", named["atrio.trace_id"])
    assert continued["atrio.trace_id"] == TRACE != continued["atrio.request_id"]


def test_who_does_not_propagate_begins_each_trace_and_lets_headers_be(tmp_path, collector):
    with Atrio(site(tmp_path, SEEN), **collector.settings, OTEL_PROPAGATORS="none") as server:
        seen = answer(server, headers=[traceparent("01")])
        assert collector.spans(count=4)["GET"].trace != TRACE
        assert "HTTP_TRACEPARENT" not in answer(server)
    assert seen["HTTP_TRACEPARENT"] == traceparent("01")[1]


@pytest.mark.parametrize(
    ("sampler", "flags", "least", "most"),
    [
        ("always_off", None, 0, 0),
        ("always_off", "01", 0, 0),
        ("always_on", "00", 200, 200),
        ("parentbased_always_off", "01", 200, 200),
        # Less likely than 1 in 10^9 to be out of it.
        ("traceidratio", None, 57, 143),
        ("parentbased_traceidratio", None, 57, 143),
        ("parentbased_traceidratio", "01", 200, 200),
    ],
)
def test_the_sampler_decides_which_requests_are_traced(tmp_path, collector, sampler, flags, least, most):
    settings = collector.settings | {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with Atrio(site(tmp_path), **settings) as server:
        with server.connect() as connection:
            for _ in range(200):
                assert connection.request(headers=[traceparent(flags)] if flags else []).status == 200
        server.stop()
    assert least <= len([span for span in collector.taken if span.name == "GET"]) <= most


def test_a_stream_is_a_response_beside_its_application(tmp_path, collector):
    with Atrio(write(tmp_path, STREAM), **collector.settings) as server:
        assert server.get().text == "firstlast"
        spans = collector.spans(count=4)
    assert spans["application"].seconds >= 0.2 and spans["response"].seconds >= 0.2
    assert spans["response"].began < spans["application"].ended


@pytest.mark.parametrize(
    ("options", "name", "status", "error"),
    [
        ({}, "GET", 500, "500"),
        ({"path": "/../"}, "GET", 400, None),
        ({"path": "/../", "method": "BREW"}, "HTTP", 400, None),
    ],
)
def test_what_goes_wrong_is_told_by_its_status(tmp_path, collector, options, name, status, error):
    with Atrio(write(tmp_path, FAILS), **collector.settings) as server:
        assert server.get(**options).status == status
        spans = collector.spans(count=4 if error else 2)
    root = spans[name]
    assert root.attributes["http.response.status_code"] == status
    assert (root.attributes.get("error.type"), root.status.code) == (error, ERROR if error else 0)
    if error:
        assert spans["application"].status.code == ERROR
    else:
        assert set(spans) == {name, "response"}, "no app thread saw it"
    if name == "HTTP":
        assert root.attributes["http.request.method_original"] == "BREW"


def test_nothing_of_it_is_there_unless_it_is_asked_for(tmp_path, collector):
    with Atrio(site(tmp_path, SEEN), OTEL_SERVICE_NAME="shop", OTEL_TRACES_SAMPLER="nonsense") as server:
        assert not [name for name in threads(server) if "OpenTelemetry" in name]
        seen = answer(server, headers=[traceparent("01")])
        assert seen["HTTP_TRACEPARENT"] == traceparent("01")[1]
        assert server.metric("atrio_spans_exported_total") == 0
    with Atrio(site(tmp_path), **collector.settings) as server:
        assert [name for name in threads(server) if "OpenTelemetry" in name]
    for off in ({"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}):
        with Atrio(site(tmp_path, SEEN), **collector.settings, **off) as server:
            assert "HTTP_TRACEPARENT" not in answer(server)
    assert collector.exports == []


def test_headers_and_the_path_of_the_endpoint_of_traces_are_as_given(tmp_path, collector):
    settings = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.endpoint}/own/path",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret,x-tenant=shop",
    }
    with Atrio(site(tmp_path), OTEL_BSP_SCHEDULE_DELAY=20, OTEL_SERVICE_NAME="own", **settings) as server:
        server.get()
        assert collector.spans(count=4)["GET"].resource["service.name"] == "own"
        assert "secret" not in server.log()
    path, headers, _ = collector.exports[0]
    assert (path, headers["authorization"], headers["x-tenant"]) == ("/own/path", "Bearer secret", "shop")


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_spans_go_by_grpc_too(tmp_path, scheme):
    with GrpcCollector() as collector:
        settings = collector.settings | {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=shop"}
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint.replace("http://", scheme)
        with Atrio(site(tmp_path / "shop"), **settings) as server:
            server.get(headers=[traceparent("01")])
            spans = collector.spans(TRACE, 4)
    assert (spans["GET"].parent, spans["GET"].resource["service.name"]) == (PARENT, "shop")
    assert collector.exports[0][1]["x-tenant"] == "shop"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_of_the_other_protocol_is_named_in_the_log(tmp_path, protocol):
    kind = Collector if protocol == "grpc" else GrpcCollector
    with kind() as collector:
        settings = collector.settings | {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TIMEOUT": "100"}
        with Atrio(site(tmp_path), **settings) as server:
            assert server.get().status == 200
            eventually(lambda: dropped(server, "unreachable") + dropped(server, "refused") == 4)
            server.wait_log("traces cannot be exported to 127.0.0.1")


def test_what_is_wrong_is_refused_at_start_all_at_once(tmp_path):
    wrong = {
        "OTEL_TRACES_SAMPLER": "sometimes",
        "OTEL_BSP_MAX_QUEUE_SIZE": "many",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318",
        "ATRIO_THREADS": "x",
    }
    result = run(sites=site(tmp_path), **wrong)
    assert result.returncode == 78
    lines = [line.removeprefix("atrio: ") for line in result.stderr.splitlines()]
    assert sorted(line.partition("=")[0] for line in lines) == sorted(wrong), result.stderr


def test_a_reload_and_a_stop_lose_no_span(tmp_path, collector):
    settings = collector.settings | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with Atrio(site(tmp_path), **settings) as server:
        for _ in range(20):
            server.get()
        (worker,) = server.workers()
        server.signal(signal.SIGHUP)
        eventually(lambda: worker not in server.workers(), what="the end of the first worker")
        assert len(collector.taken) == 80
        assert server.metric("atrio_spans_exported_total") == 80
        for _ in range(20):
            server.get()
        assert server.stop() == 0
    assert len(collector.taken) == 160


def test_an_absent_collector_is_not_noticed_by_the_site(tmp_path):
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with Atrio(site(tmp_path), **settings, OTEL_EXPORTER_OTLP_TIMEOUT=100) as server:
        for _ in range(50):
            assert server.get().status == 200
        eventually(lambda: dropped(server, "unreachable") == 200, what="all spans to be counted")
        assert server.metric("atrio_spans_exported_total") == 0
        assert server.stop() == 0
        assert server.log().count("traces cannot be exported to 127.0.0.1") == 1


@PROTOCOLS
def test_a_collector_that_hangs_is_not_noticed_by_the_site(tmp_path, protocol):
    collector = protocol()
    collector.gate.clear()
    sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "40", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    with collector, Atrio(site(tmp_path), **collector.settings, **sizes) as server:
        began = time.monotonic()
        with server.connect() as connection:
            for _ in range(200):
                assert connection.request().status == 200
        assert time.monotonic() - began < 10, "the collector is waited for"
        eventually(lambda: collector.exports, what="an export")
        assert dropped(server, "queue_full") >= 800 - 40 - 4 * 2
        assert dropped(server, "unreachable") == 0
        # It is not waited for at the end, either.
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20


@PROTOCOLS
def test_every_span_is_exported_or_counted_as_dropped_once(tmp_path, protocol):
    """By a collector that refuses some exports for good, some for now, and parts of others."""
    with protocol(400, 503, 200, 503, rejects=1) as collector:
        settings = collector.settings | {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4", "OTEL_BSP_MAX_QUEUE_SIZE": "2048"}
        with Atrio(site(tmp_path), **settings) as server:
            for _ in range(25):
                server.get()

            def settled():
                lost = [dropped(server, reason) for reason in ("queue_full", "unreachable", "refused", "shutdown")]
                exported = server.metric("atrio_spans_exported_total")
                return exported + sum(lost) == 100 and (exported, lost)

            exported, lost = eventually(settled, what="100 spans")
            # All that it refused for now has come again.
            batches = len(collector.exports) - 3
            assert lost == [0, 0, 100 - exported, 0] and lost[2] >= batches + 1 and exported >= 50
            assert (
                len(re.findall("it answers (400 Bad Request|with the status 3 of gRPC as the test)", server.log())) == 1
            )
            assert "traces are exported again" in server.log()


def test_a_worker_that_leaves_an_absent_collector_counts_its_last_spans(tmp_path):
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with Atrio(site(tmp_path), **settings) as server:
        server.get()
        (worker,) = server.workers()
        began = time.monotonic()
        server.signal(signal.SIGHUP)
        eventually(lambda: worker not in server.workers(), what="the end of the first worker")
        assert time.monotonic() - began < 10
        assert dropped(server, "unreachable") + dropped(server, "shutdown") == 4


LOGS = """
    import logging
    logging.basicConfig(format="%(request_id)s|%(trace_id)s|%(message)s")
    logging.warning("imported")

    def application(environ, start_response):
        logging.getLogger("shop").warning("in a request")
        print("printed")
        assert environ["PATH_INFO"] != "/fails"
        assert environ["atrio.request_id"] == environ["HTTP_X_REQUEST_ID"]
        assert environ.get("atrio.trace_id") == (environ.get("HTTP_TRACEPARENT", "")[3:35] or None)
        start_response("200 OK", [("Content-Length", "0")])
        return []
"""


def exemplars(server):
    """{(status, upper bound): exemplar} of the durations of requests."""
    reply = server.admin("/metrics", [("Accept", "application/openmetrics-text")])
    samples = [sample for family in open_metrics(reply.text) for sample in family.samples]
    assert {sample.name for sample in samples if sample.exemplar} <= {"http_server_request_duration_seconds_bucket"}
    return {(s.labels["http_response_status_code"], float(s.labels["le"])): s.exemplar for s in samples if s.exemplar}


def test_a_bucket_of_durations_names_the_last_recorded_trace_in_it(tmp_path, collector):
    with Atrio(write(tmp_path, STREAM), **collector.settings) as server:
        began = time.time()
        for trace, flags in (("a" * 32, "01"), (TRACE, "01"), ("b" * 32, "00")):
            server.get(headers=[traceparent(flags, trace)])
        server.get("/../", headers=[traceparent("01", "c" * 32)])
        collector.spans("c" * 32, 2)
        found = exemplars(server)
        (slow,) = [exemplar for (status, _), exemplar in found.items() if status == "200"]
        assert slow.labels == {"trace_id": TRACE} and 0.2 <= slow.value < 5
        (refused,) = [(bound, exemplar) for (status, bound), exemplar in found.items() if status == "400"]
        assert refused[1].labels == {"trace_id": "c" * 32} and refused[1].value <= refused[0]
        assert began - 0.001 <= float(slow.timestamp) <= float(refused[1].timestamp) <= time.time()
        assert "trace_id" not in server.admin("/metrics").text


@pytest.mark.parametrize("flags", ["00", "01"])
def test_every_line_that_a_request_leaves_has_the_ids_of_request_and_trace(tmp_path, collector, flags):
    with Atrio(write(tmp_path, LOGS), **collector.settings, log_format="json") as server:
        assert server.get("/", [traceparent(flags, "f" * 32)]).status == 200, server.log()
        ids = server.get("/fails", [traceparent(flags)]).header("x-request-id")
        server.stop()
        lines = records(server.log())
        access = records(server.access_log())[1]
    (imported,) = [line for line in lines if line["message"].endswith("|imported")]
    assert imported["message"] == "-|-|imported" and "trace_id" not in imported
    found = [line for line in lines if line.get("trace_id") == TRACE]
    words = [line["message"] for line in found]
    assert words[0] == f"{ids}|{TRACE}|in a request" and words[1] == "printed" and "AssertionError" in words[2]
    assert {line["request_id"] for line in found} == {ids} and len(found) == 3
    assert (access["request_id"], access["trace_id"]) == (ids, TRACE)


def test_without_traces_lines_have_the_request_s_id_alone(tmp_path):
    with Atrio(write(tmp_path, LOGS), access_log="json") as server:
        ids = server.get().header("x-request-id")
        server.stop()
        assert f"{ids}|-|in a request" in server.log() and "trace_id" not in server.log() + server.access_log()


def test_the_common_form_of_the_access_log_ends_in_the_trace(tmp_path, collector):
    with Atrio(site(tmp_path), **collector.settings, access_log="common") as server:
        ids = server.get(headers=[traceparent("01")]).header("x-request-id")
        server.wait_log(f" {ids} {TRACE}\n", where="access_log")


LAZY = """
    import sys

    def application(environ, start_response):
        before = "logging" in sys.modules
        import inspect, logging
        logging.warning("%s", before)
        logging.error("own", extra={"request_id": "of the site"})
        assert "class Logger" in inspect.getsource(logging)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(request_id)s %(message)s"))
        logging.root.handlers[:] = [handler]
        logging.error("again", extra={"request_id": "of the site"})
        start_response("200 OK", [("Content-Length", "0")])
        return []
"""


def test_a_site_without_logging_does_not_import_it_and_one_with_ids_of_its_own_keeps_them(tmp_path):
    with Atrio(write(tmp_path, LAZY)) as server:
        assert server.get().status == 200, server.log()
        server.stop()
        messages = [line["message"] for line in records(server.log())]
    assert "WARNING:root:False" in messages and "of the site again" in messages
