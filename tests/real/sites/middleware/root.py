"""The chain of the GenroPy manual: sessions of Beaker around tracebacks in the manner of WebError around the site,
and the judge of the standard library between every two. FOLDER keeps the sessions."""

import os
from wsgiref.validate import validator

from beaker.middleware import SessionMiddleware
from paste.exceptions.errormiddleware import ErrorMiddleware

PLAIN = [("Content-Type", "text/plain")]
closed = []


class Blocks:
    """An iterable that tells when it was closed, and may break in the middle."""

    def __init__(self, *blocks):
        self.blocks = iter(blocks)

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self.blocks)
        if block is None:
            raise LookupError("no chair for guest 42")
        return block

    def close(self):
        closed.append(self)


def site(environ, start_response):
    session, path = environ["beaker.session"], environ["PATH_INFO"]
    session["visits"] = session.get("visits", 0) + 1
    session.save()
    if path == "/broken":
        raise LookupError("no chair for guest 42")
    write = start_response("200 OK", list(PLAIN))
    if path == "/written":
        write(b"written, ")
        return Blocks(b"then ", b"yielded")
    if path == "/stream":
        return Blocks(*(b"%d " % number for number in range(1000)))
    if path == "/breaks":
        return Blocks(b"the first block", None)
    if path == "/closed":
        return [b"%d" % len(closed)]
    if path == "/echo":
        return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]
    return [b"%d" % session["visits"]]


sessions = {"session.type": "file", "session.data_dir": os.environ["FOLDER"], "session.key": "visit"}
guarded = ErrorMiddleware(validator(site), debug=True, show_exceptions_in_wsgi_errors=True)


def hall(environ, start_response):
    # Paste's error pages lose the write() of start_response.
    return (site if environ["PATH_INFO"] == "/written" else guarded)(environ, start_response)


application = validator(SessionMiddleware(validator(hall), sessions))
