"""WebOb sees the request as it was sent, whatever way its body came, and its responses arrive whole."""

import hashlib
import json
import random

import pytest

from .tools import chunked

CONTENT = random.Random(4).randbytes(200_000)


@pytest.fixture(scope="module")
def webob(serve, judged, tmp_path_factory):
    file = tmp_path_factory.mktemp("webob") / "file.bin"
    file.write_bytes(CONTENT)
    with serve("webob", "middleware", judged, FILE=file) as server:
        yield server


def test_request_is_described_as_sent(webob):
    about = json.loads(webob.get("/about/Zo%C3%AB/a%20b?q=%C3%A9&empty=", [("Cookie", "a=1; b=two")]).text)
    assert about == {
        "method": "GET",
        "host": "test",
        "script_name": "/about",
        "path_info": "/Zoë/a b",
        "url": "http://test/about/Zo%C3%AB/a%20b?q=%C3%A9&empty=",
        "client_addr": "127.0.0.1",
        "query": {"q": "é", "empty": ""},
        "cookies": {"a": "1", "b": "two"},
    }


@pytest.mark.parametrize("content", (b"", b"short", CONTENT), ids=("empty", "short", "large"))
def test_body_with_a_length_is_read(webob, content):
    reply = webob.get("/body", [("Content-Length", len(content))], method="POST", body=content)
    assert json.loads(reply.text) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("content", (b"", b"short", CONTENT), ids=("empty", "short", "large"))
def test_body_without_a_length_is_read(webob, content):
    reply = webob.get(
        "/body", [("Transfer-Encoding", "chunked")], method="POST", body=chunked(*filter(None, [content]))
    )
    assert json.loads(reply.text) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_body_is_read_line_by_line(webob):
    reply = webob.get("/lines", method="POST", body=b"one\ntwo\r\n\nlast without an end")
    assert json.loads(reply.text) == ["one\n", "two\r\n", "\n", "last without an end"]


def test_form_with_a_file(webob):
    form = (
        '--mark\r\nContent-Disposition: form-data; name="title"\r\n\r\nZoë\r\n'
        '--mark\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'
    )
    body = form.encode() + CONTENT + b"\r\n--mark--\r\n"
    reply = webob.get("/form", [("Content-Type", "multipart/form-data; boundary=mark")], method="POST", body=body)
    assert json.loads(reply.text) == {"title": "Zoë", "name": "f.bin", "size": len(CONTENT)}


def test_every_cookie_is_set(webob):
    reply = webob.get("/cookies", [("Cookie", "third=3")])
    assert json.loads(reply.text) == {"third": "3"}
    assert [cookie.partition(";")[0] for cookie in reply.all("Set-Cookie")] == ["first=1", "second=zwei"]


def test_file_with_ranges(webob):
    with webob.connect() as connection:
        assert connection.request("/file").body == CONTENT
        part = connection.request("/file", [("Range", "bytes=100000-")])
        assert (part.status, part.body) == (206, CONTENT[100_000:])
        head = connection.request("/file", method="HEAD")
        assert (head.status, head.header("Content-Length"), head.body) == (200, str(len(CONTENT)), b"")
        assert connection.request("/stream").text == "block 0\nblock 1\nblock 2\n"


def test_conditional_response(webob):
    with webob.connect() as connection:
        assert connection.request("/etag").text == "the text"
        assert connection.request("/etag", [("If-None-Match", '"a-tag"')]).status == 304
        assert connection.request("/etag", [("Range", "bytes=4-")]).text == "text"


def test_request_within_the_request(webob):
    about = json.loads(webob.get("/inner", [("Cookie", "c=d")]).text)
    assert (about["query"], about["cookies"]) == ({"from": "inner"}, {"a": "b"})


def test_judge_has_nothing_to_say(webob):
    assert webob.get("/about").status == 200
    assert "AssertionError" not in webob.log() and "without being closed" not in webob.log()
