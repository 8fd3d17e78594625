"""An OpenTelemetry collector: takes spans by OTLP, and can be slow, full, or wrong about it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from harness import PATIENCE, eventually


class Span:
    """A span as it arrived, with its attributes and those of its resource as dictionaries."""

    def __init__(self, span, resource, scope):
        self.name, self.kind, self.status, self.state = span.name, span.kind, span.status, span.trace_state
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.began, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes, self.resource, self.scope = plain(span.attributes), plain(resource.attributes), scope.name

    @property
    def seconds(self):
        return (self.ended - self.began) / 1e9

    def __repr__(self):
        return f"<{self.scope} {self.name} {self.trace}/{self.parent}/{self.id} {self.attributes}>"


def plain(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Collector:
    """By HTTP. A context manager: outside, it is gone. `answers` are the status codes of the next exports, 200 when there are no more;
    `rejects` says how many spans of each it refuses; `gate` is what each export waits for."""

    def __init__(self, *answers, rejects=0):
        self.answers, self.rejects = list(answers), rejects
        self.exports = []
        """(path, headers, request) of everything that arrived; gRPC tells no path."""
        self.taken = []
        """The spans that it has accepted."""
        self.gate = threading.Event()
        self.gate.set()
        self.listen()

    def listen(self):
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = collector.take(self.path, headers, request)
                body = answer.SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def take(self, path, headers, request):
        self.exports.append((path, headers, request))
        self.gate.wait(PATIENCE)
        status = self.answers.pop(0) if self.answers else 200
        answer = ExportTraceServiceResponse()
        if self.rejects:
            answer.partial_success.rejected_spans = self.rejects
        if status == 200:
            self.taken += [
                Span(span, of_resource.resource, of_scope.scope)
                for of_resource in request.resource_spans
                for of_scope in of_resource.scope_spans
                for span in of_scope.spans
            ]
        return status, answer

    @property
    def settings(self):
        """Variables that send spans here, and do not wait for company."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}

    def spans(self, trace=None, count=1, scope="atrio"):
        """{name: span} of a trace, once `count` of that scope are there."""

        def found():
            these = [span for span in list(self.taken) if span.scope == scope and trace in (None, span.trace)]
            return these if len(these) >= count else None

        return {span.name: span for span in eventually(found, what=f"{count} spans; there are {self.taken}")}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.close()


class GrpcCollector(Collector):
    """By gRPC: what is 200, 400 and 503 by HTTP are OK, INVALID_ARGUMENT and UNAVAILABLE."""

    def listen(self):
        collector, codes = self, {400: grpc.StatusCode.INVALID_ARGUMENT, 503: grpc.StatusCode.UNAVAILABLE}

        class Service(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request, context):
                headers = {name: value for name, value in context.invocation_metadata()}
                status, answer = collector.take("", headers, request)
                if status != 200:
                    context.abort(codes[status], "as the test wants it")
                return answer

        self.server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), self.server)
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def close(self):
        self.server.stop(None)

    @property
    def settings(self):
        return super().settings | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
