"""Django, Flask, Pyramid and Falcon: a greeting, a form and an upload; plain, and judged by wsgiref.validate."""

import hashlib
import random
from urllib.parse import quote, urlencode

import pytest

FRAMEWORKS = ("django", "flask", "pyramid", "falcon")
LARGE = random.Random(1).randbytes(3_000_000)
"""More than any framework, or the server, keeps in memory."""


@pytest.fixture(scope="module", params=FRAMEWORKS)
def server(serve, judged, request):
    with serve(request.param, "frameworks", judged) as server:
        yield server


def multipart(title, name, content):
    """The headers and the body of a form with a text and a file."""
    mark = "----a-mark-that-is-not-in-the-content"
    lines = (
        f'--{mark}\r\nContent-Disposition: form-data; name="title"\r\n\r\n{title}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = lines.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return [("Content-Type", f"multipart/form-data; boundary={mark}")], body


def test_greeting_keeps_path_and_query_of_any_language(server):
    for name, greeting in (("Anna", "Guten Tag"), ("Zoë", "¿qué tal?"), ("花子", "こんにちは")):
        reply = server.get(f"/hello/{quote(name)}?{urlencode({'greeting': greeting})}")
        assert (reply.status, reply.text) == (200, f"hello {name} {greeting}"), server.log()


def test_form_is_read(server):
    form = urlencode({"name": "Zoë & Anna = 2", "age": 42}).encode()
    reply = server.get("/form", [("Content-Type", "application/x-www-form-urlencoded")], method="POST", body=form)
    assert (reply.status, reply.text) == (200, "Zoë & Anna = 2 is 42"), server.log()


@pytest.mark.parametrize("content", (b"", b"\r\n\x00--short\r\n", LARGE), ids=("empty", "short", "large"))
def test_upload_arrives_byte_for_byte(server, content):
    headers, body = multipart("a title", "file.bin", content)
    with server.connect() as connection:
        for _ in range(2):
            reply = connection.request("/upload", headers, "POST", body)
            expected = f"a title file.bin {hashlib.sha256(content).hexdigest()}"
            assert (reply.status, reply.text) == (200, expected), server.log()


def test_unknown_path_is_the_framework_s_404(server):
    assert server.get("/nowhere").status == 404
    head = server.get("/nowhere", method="HEAD")
    assert (head.status, head.body) == (404, b"")
    assert "AssertionError" not in server.log() and "without being closed" not in server.log()
