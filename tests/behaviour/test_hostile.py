"""Clients and sites at their worst: what a review of the code found, and what must not come back."""

import pytest

from harness import Atrio, eventually, run

from .support import site

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


def hall(tmp_path, body):
    """A site of one application with this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    tmp_path.joinpath("root.py").write_text(f"def application(environ, start_response):\n{lines}")
    return tmp_path


def test_a_head_in_two_parts_after_a_long_pause_is_not_late(tmp_path):
    with Atrio(site(tmp_path), header_timeout="1s", keepalive_timeout="20s") as server, server.connect() as c:
        assert c.request("/").status == 200
        c.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            c.more()
        c.socket.settimeout(20)
        c.send(b"GET / HTTP/1.1\r\nHo")
        # The first part has been read when another connection has been served.
        server.get()
        assert c.send(b"st: a\r\n\r\n").reply().status == 200


def test_an_empty_line_behind_a_request_gets_no_answer(tmp_path):
    with Atrio(site(tmp_path), header_timeout="1s", keepalive_timeout="3s") as server, server.connect() as c:
        assert c.request("/").status == 200
        assert c.send(b"\r\n").closed()


def test_clients_that_expect_and_do_not_send_leave_threads_to_others(tmp_path):
    read = hall(tmp_path, "environ['wsgi.input'].read()\nstart_response('200 OK', [])\nreturn [b'x']")
    with Atrio(read, threads=4) as server:
        crowd = [server.connect().send(POST + b"ab") for _ in range(12)]
        assert server.get().text == "x"
        for c in crowd:
            c.send(b"cde")
            assert c.reply().text == "x"
            c.close()


def test_a_site_may_answer_before_it_reads_what_was_expected(tmp_path):
    body = "start_response('200 OK', [])\ndef answer():\n    yield b'a '\n    yield environ['wsgi.input'].read()\nreturn answer()"
    with Atrio(hall(tmp_path, body)) as server, server.connect() as c:
        c.send(POST + b"hello")
        assert c.reply().text == "a hello"


def test_any_number_of_response_headers_is_survived(tmp_path):
    with Atrio(hall(tmp_path, "start_response('200 OK', [('X', 'y')] * 40000)\nreturn [b'x']")) as server:
        workers = server.workers()
        assert [server.get().status for _ in range(2)] == [500, 500]
        assert server.workers() == workers


def test_a_site_that_writes_in_a_loop_learns_that_its_client_has_left(tmp_path):
    body = """write = start_response('200 OK', [])
try:
    while True:
        write(b'x' * 10000)
except ConnectionError as error:
    print('learned:', error)
    raise"""
    with Atrio(hall(tmp_path, body), threads=1) as server:
        with server.connect() as c:
            c.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            c.more()
        server.wait_log("learned: the client has left")


def test_a_repr_that_calls_start_response_stops_nobody(tmp_path):
    body = """class Header:
    def __repr__(self):
        start_response('200 OK', [])
        return 'header'
start_response('200 OK', [(Header(), 'b', 'c')] if environ['PATH_INFO'] == '/bad' else [])
return [b'x']"""
    with Atrio(hall(tmp_path, body), threads=2) as server:
        assert server.get("/bad").status == 500
        assert server.get("/").text == "x"


@pytest.mark.parametrize("target", ["http://u:p@evil/", "http://a b/", "http:///x", "http://[::1/", "https://"])
def test_an_absolute_target_names_a_host_like_any_other(tmp_path, target):
    with Atrio(site(tmp_path)) as server:
        assert server.get(target).status == 400


def test_options_of_the_server_have_no_path(tmp_path):
    with Atrio(hall(tmp_path, "start_response('200 OK', [])\nreturn [repr(environ['PATH_INFO']).encode()]")) as server:
        assert server.get("*", method="OPTIONS").text == "''"


def test_an_exception_of_any_length_is_told(tmp_path):
    tmp_path.joinpath("root.py").write_text("raise Exception('x' * 300_000)")
    result = run(sites=tmp_path, timeout=20)
    assert result.returncode == 78
    assert "cannot be imported: Exception: xxx" in result.stderr.splitlines()[-1]


def test_a_reload_that_fails_in_one_worker_leaves_none_behind(tmp_path):
    folder = site(tmp_path / "site")
    with Atrio(folder, preload="off", workers=6, drain_timeout="20s") as server:
        before = sorted(server.workers())
        marker = tmp_path / "first"
        script = folder.joinpath("root.py").read_text()
        folder.joinpath("root.py").write_text(
            f"import os\ntry: os.mkdir({str(marker)!r})\nexcept FileExistsError: pass\nelse: raise Exception('first')\n{script}"
        )
        server.signal(1)
        server.wait_log("the reload failed")
        eventually(lambda: sorted(server.workers()) == before, what="only the old workers")
        assert server.stop() == 0
