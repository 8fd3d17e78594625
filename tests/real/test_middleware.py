"""A chain of middleware as sites have it: wsgiref.validate, Beaker, Paste's error pages, wsgiref.validate, the site."""

from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def chain(serve, tmp_path):
    with serve("middleware", "middleware", FOLDER=tmp_path) as server:
        yield server
        assert "AssertionError" not in server.log() and "without being closed" not in server.log()


def session_of(reply):
    return [("Cookie", reply.header("Set-Cookie").partition(";")[0])]


def test_session_passes_through_the_chain(chain):
    session = session_of(chain.get("/"))
    assert [chain.get("/", session).text for _ in range(2)] == ["2", "3"]


def test_error_becomes_a_page_keeps_the_session_and_is_logged(chain):
    broken = chain.get("/broken")
    assert broken.status == 500 and "no chair for guest 42" in broken.text
    assert chain.get("/", session_of(broken)).text == "2"
    chain.wait_log("no chair for guest 42", 10)


def test_written_and_yielded_blocks_keep_their_order(chain):
    assert chain.get("/written").text == "written, then yielded"


def test_stream_is_whole_and_every_iterable_is_closed(chain):
    expected = "".join(f"{number} " for number in range(1000))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: chain.get("/stream"), range(16)))
    assert all(reply.complete and reply.text == expected for reply in replies)
    assert chain.get("/closed").text == "16"


def test_error_in_the_middle_of_a_stream_is_closed_and_logged(chain):
    reply = chain.get("/breaks")
    assert reply.status == 200 and reply.body.startswith(b"the first block")
    chain.wait_log("no chair for guest 42", 10)
    assert chain.get("/closed").text == "1"


@pytest.mark.parametrize("size", (0, 1, 100_000))
def test_body_passes_through_the_chain(chain, size):
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    reply = chain.get("/echo", [("Content-Length", size)], method="POST", body=body)
    assert (reply.status, reply.body) == (200, body)


def test_head_is_answered_without_a_body(chain):
    with chain.connect() as connection:
        for path in ("/", "/stream", "/broken"):
            head = connection.request(path, method="HEAD")
            assert head.status == (500 if path == "/broken" else 200) and head.body == b""
        assert connection.request("/", session_of(head)).text == "2"
