from flask import Flask
from prometheus_flask_exporter import PrometheusMetrics

application = Flask(__name__)
metrics = PrometheusMetrics(application)


@application.get("/")
@metrics.do_not_track()
def here():
    return "here"


@application.get("/hello/<name>")
@metrics.counter("hellos", "Greetings.", labels={"status": lambda response: response.status_code})
def hello(name):
    return f"hello {name}"
