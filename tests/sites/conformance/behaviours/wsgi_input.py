"""Ways to read, and not to read, the body of a request."""

import hashlib

from . import answer, answer_json, argument, behaviour, note, wait_at_gate
from .reads import READS


@behaviour
def read_input(environ, start_response):
    pieces = READS[argument(environ, "how")](environ["wsgi.input"])
    return answer_json(start_response, [str(piece, "latin-1") for piece in pieces])


@behaviour
def digest(environ, start_response):
    body = b"".join(READS[argument(environ, "how", "read()")](environ["wsgi.input"]))
    return answer_json(start_response, [len(body), hashlib.sha256(body).hexdigest()])


@behaviour
def unread(environ, start_response):
    """Answers without a look at the body."""
    note(environ, "called")
    return answer(start_response, b"unread")


@behaviour
def hit(environ, start_response):
    """Reads the body to its end and notes how far it came: "complete" only when read() came back in peace."""
    note(environ, "called")
    try:
        body = environ["wsgi.input"].read()
    except Exception as error:
        note(environ, f"error {type(error).__name__}")
        raise
    note(environ, "complete")
    note(environ, len(body))
    return answer(start_response, b"hit")


@behaviour
def digest_in_steps(environ, start_response):
    """Reads a little, waits at the gate, and then reads to the end."""
    source = environ["wsgi.input"]
    body = source.read(10)
    note(environ, "begun")
    wait_at_gate(environ)
    body += b"".join(READS[argument(environ, "how", "read()")](source))
    return answer_json(start_response, [len(body), hashlib.sha256(body).hexdigest()])
