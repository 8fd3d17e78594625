"""A site's own OpenTelemetry SDK, with the instrumentation of its framework, goes on with the trace that Atrio hands it."""

import pytest

from collector import Collector
from harness import eventually

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SCOPE = "opentelemetry.instrumentation.{}"


@pytest.mark.parametrize("framework", ["flask", "django"])
@pytest.mark.parametrize("preload", ["auto", "on"])
def test_the_site_continues_the_trace_below_the_span_of_its_application(serve, framework, preload):
    with Collector() as collector:
        settings = collector.settings | {"OTEL_SERVICE_NAME": "shop", "preload": preload}
        with serve(f"traced_{framework}", "traces", **settings) as server:
            for given, flags in ((TRACE, "01"), ("f" * 32, "00"), (None, None)):
                headers = [("Traceparent", f"00-{given}-{CLIENT}-{flags}")] if given else []
                reply = server.get("/hello/Anna", headers)
                assert (reply.status, reply.text) == (200, "hello Anna"), server.log()
            for parent in (CLIENT, ""):
                (root, *_) = eventually(lambda parent=parent: [s for s in collector.taken if s.parent == parent])
                trace, ours = root.trace, collector.spans(root.trace, 4)
                (view,) = collector.spans(trace, scope=SCOPE.format(framework)).values()
                work = collector.spans(trace, scope="shop")["work"]
                assert ours["GET"].id == root.id
                assert (view.parent, work.parent) == (ours["application"].id, view.id)
                assert ours["application"].began <= view.began <= work.began <= work.ended <= view.ended
                assert {span.resource["service.name"] for span in (*ours.values(), view, work)} == {"shop"}
        assert "f" * 32 not in {span.trace for span in collector.taken}, "the client has not sampled it"
