from flask import Flask
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
application = Flask(__name__)
FlaskInstrumentor().instrument_app(application)


@application.get("/hello/<name>")
def hello(name):
    with trace.get_tracer("shop").start_as_current_span("work"):
        return f"hello {name}"
