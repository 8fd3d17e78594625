"""The site in sites/, which `make run` serves."""

import re
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from harness import ROOT, Atrio, eventually

FORM = ("Content-Type", "application/x-www-form-urlencoded")


@pytest.fixture(scope="module")
def server():
    with Atrio(ROOT / "sites") as server:
        yield server


@pytest.mark.parametrize("path", ["/", "/environ", "/form", "/upload", "/stream"])
def test_every_page_that_the_pages_name_is_a_page(server, path):
    reply = server.get(path)
    assert (reply.status, reply.header("Content-Type")) == (200, "text/html; charset=utf-8")
    assert reply.complete and reply.text.startswith("<!doctype html>") and reply.text.endswith("</html>\n")
    for link in re.findall(r'href="(/[^"]*)"', reply.text):
        assert server.get(link, method="HEAD").status == 200, link
    assert "$" not in reply.text, "a place of the template was not filled"


def test_what_a_visitor_gives_is_shown_and_is_no_markup(server):
    page = server.get("/form", [FORM], method="POST", body=b"name=%3Cb%3E%C3%84").text
    assert "Good day, <strong>&lt;b&gt;Ä</strong>" in page and "<b>" not in page
    page = server.get("/environ?<script>", [("X-Try", "<script>")])
    assert page.status == 400 or "<script>" not in page.text
    missing = server.get("/%3Cscript%3E")
    assert missing.status == 404 and "&lt;script&gt;" in missing.text and "<script>" not in missing.text


def test_an_upload_is_counted(server):
    assert "<strong>1000000</strong>" in server.get("/upload", method="POST", body=bytes(1_000_000)).text


def test_the_stream_comes_in_pieces(server):
    with server.connect() as connection:
        connection.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        connection.until(b"block 1</li>")
        assert b"block 10" not in connection.buffer
        connection.until(b"block 10</li>")


def test_it_can_answer_100_ms_after_the_start():
    """By the log's account; other tests run at the same time, so that not every start is that fast."""

    def started():
        with Atrio(ROOT / "sites") as server:
            return int(server.wait_log(r'"ready_ms":(\d+)')[1]) < 100 and server.get().status == 200

    eventually(started, what="a start in less than 100 ms")


def test_wsgiref_finds_no_fault(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "sites"))
    application = validator(__import__("root").application)
    for method, path in (("GET", "/"), ("HEAD", "/"), ("GET", "/environ"), ("GET", "/nowhere"), ("POST", "/upload")):
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "REMOTE_ADDR": "::1",
        }
        setup_testing_defaults(environ)
        answers = application(environ, lambda status, headers: None)
        try:
            assert all(answers)
        finally:
            answers.close()
