"""Counts the visits of a session; SESSION_TYPE and SESSION_FOLDER of the environment say where sessions are kept."""

import os

from beaker.middleware import SessionMiddleware

kind, folder = os.environ["SESSION_TYPE"], os.environ["SESSION_FOLDER"]
options = {"session.type": kind, "session.key": "visit", "session.data_dir": folder, "session.auto": False}
if kind == "ext:database":
    options["session.url"] = f"sqlite:///{folder}/sessions.db"
if kind == "cookie":
    options["session.validate_key"] = "a key for tests"


def count(environ, start_response):
    session = environ["beaker.session"]
    session["visits"] = session.get("visits", 0) + 1
    session.save()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{session['visits']} {os.getpid()}".encode()]


application = SessionMiddleware(count, options)
