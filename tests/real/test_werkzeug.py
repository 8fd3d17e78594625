"""Werkzeug: its debugger with an interpreter behind a PIN, bodies without a length, files with ranges."""

import hashlib
import json
import random
import re
from urllib.parse import urlencode

import pytest

from .tools import chunked

PIN = "123-456-789"
CONTENT = random.Random(3).randbytes(200_000)


@pytest.fixture(scope="module")
def werkzeug(serve, judged, tmp_path_factory):
    file = tmp_path_factory.mktemp("werkzeug") / "file.bin"
    file.write_bytes(CONTENT)
    with serve("werkzeug", "frameworks", judged, FILE=file, WERKZEUG_DEBUG_PIN=PIN) as server:
        yield server


class Debugger:
    """What the script of werkzeug's traceback page asks for."""

    def __init__(self, server, path="/broken"):
        self.server, self.path, self.cookie = server, path, []
        self.page = server.get(path)
        self.secret = re.search(r'SECRET = "(\w+)"', self.page.text)[1]

    def ask(self, command, **more):
        query = urlencode({"__debugger__": "yes", "cmd": command, "s": self.secret, **more})
        return self.server.get(f"{self.path}?{query}", self.cookie)

    def unlock(self, pin):
        reply = self.ask("pinauth", pin=pin)
        if cookie := reply.header("Set-Cookie"):
            self.cookie = [("Cookie", cookie.partition(";")[0])]
        return json.loads(reply.text)


def test_traceback_page_and_its_resources(werkzeug):
    debugger = Debugger(werkzeug)
    assert debugger.page.status == 500
    assert "LookupError: no chair for guest 42" in debugger.page.text and "EVALEX = true" in debugger.page.text
    assert "function" in debugger.ask("resource", f="debugger.js").text
    werkzeug.wait_log("LookupError: no chair for guest 42", 10)


def test_interpreter_in_a_frame_opens_with_the_pin_only(werkzeug):
    debugger = Debugger(werkzeug)
    frame = re.findall(r'id="frame-(\d+)"', debugger.page.text)[-1]
    locked = debugger.ask("guests * 1000", frm=frame)
    assert "41000" not in locked.text
    assert debugger.unlock("000-000-000") == {"auth": False, "exhausted": False}
    assert debugger.unlock(PIN) == {"auth": True, "exhausted": False}
    answer = debugger.ask("guests * 1000", frm=frame)
    assert answer.status == 200 and "41000" in answer.text
    assert "42000" in debugger.ask("guests = 42; guests * 1000", frm=frame).text
    assert "42" in debugger.ask("guests", frm=frame).text


def test_console_keeps_its_variables_from_one_request_to_the_next(werkzeug):
    debugger = Debugger(werkzeug, "/console")
    debugger.unlock(PIN)
    debugger.ask("chairs = 6 * 7", frm=0)
    assert "42" in debugger.ask("chairs", frm=0).text
    assert "NameError" in debugger.ask("tables", frm=0).text


def test_error_in_the_middle_of_a_stream_is_logged_with_its_traceback(werkzeug):
    reply = werkzeug.get("/stream")
    assert reply.status == 200 and reply.body.startswith(b"the first block")
    werkzeug.wait_log("headers were already sent.*LookupError: no chair for guest 42", 10)


@pytest.mark.parametrize("blocks", [(), (b"a",), (CONTENT[:70_000], CONTENT[70_000:])], ids=("none", "one", "two"))
def test_chunked_body_is_read_to_its_end(werkzeug, blocks):
    content = b"".join(blocks)
    with werkzeug.connect() as connection:
        for _ in range(2):
            reply = connection.request("/digest", [("Transfer-Encoding", "chunked")], "POST", chunked(*blocks))
            assert (reply.status, reply.text) == (200, f"{len(content)} {hashlib.sha256(content).hexdigest()}")


def test_chunked_form_is_parsed(werkzeug):
    part = '--mark\r\nContent-Disposition: form-data; name="title"\r\n\r\na title\r\n'
    file = '--mark\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ninside\r\n--mark--\r\n'
    headers = [("Transfer-Encoding", "chunked"), ("Content-Type", "multipart/form-data; boundary=mark")]
    reply = werkzeug.get("/form", headers, method="POST", body=chunked(part.encode(), file.encode()))
    assert (reply.status, reply.text) == (200, "a title inside"), werkzeug.log()


def test_send_file_answers_ranges_and_conditions(werkzeug):
    with werkzeug.connect() as connection:
        whole = connection.request("/file")
        assert (whole.status, whole.body) == (200, CONTENT)
        part = connection.request("/file", [("Range", "bytes=1000-100999")])
        assert (part.status, part.body) == (206, CONTENT[1000:101_000])
        assert connection.request("/file", [("Range", "bytes=-5")]).body == CONTENT[-5:]
        assert connection.request("/file", [("If-None-Match", whole.header("ETag"))]).status == 304
        assert connection.request("/").text == "hello"
