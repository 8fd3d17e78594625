"""Statuses and headers that the application gives."""

import pytest

from conformance.support import drain, head, path, replies

INJECTIONS = ["crlf", "crlf twice", "lf", "cr", "nul", "name", "namecolon", "statuscrlf", "statuslf"]
WRONG = [
    *("namesp", "nametrailingsp", "emptyname", "bytes", "bytesname", "int", "nonlatin1", "nonlatin1status"),
    *("tuple", "listitem", "threetuple", "none"),
    *(
        "status0",
        "status000",
        "status100",
        "status101",
        "statusbad",
        "statusempty",
        "statuslong",
        "statusint",
        "statusbytes",
    ),
    *("clbad", "clnegative", "clplus", "cltwo"),
]


def raw(server, case):
    """Everything that is sent for the head of that name."""
    with server.connect() as c:
        return drain(c.send(head(f"GET {path('head', case=case)} HTTP/1.1", "Connection: close")))


def test_duplicates_are_kept_in_order(server):
    reply = server.get(path("head", case="duplicates"))
    assert reply.all("set-cookie") == ["a=1", "b=2", "c=3"]
    assert reply.header("x-a") == "x" and reply.header("content-type") == "text/plain"


@pytest.mark.parametrize("case", INJECTIONS)
def test_nothing_is_injected(server, case):
    answer = raw(server, case)
    assert b"njected" not in answer and b"\0" not in answer
    (reply,) = replies(answer)
    assert reply.status == 500 and b"\r" not in answer.replace(b"\r\n", b"")


@pytest.mark.parametrize("case", WRONG)
def test_wrong_heads_are_refused_with_500(server, case):
    (reply,) = replies(raw(server, case))
    assert reply.status == 500
    assert b"Traceback" not in reply.body
    assert not reply.header("x-a") and not reply.header("x a")


def test_latin_1_is_sent_as_latin_1(server):
    assert b": caf\xe9 \xff\r\n" in raw(server, "latin-1")


def test_custom_status_and_reason(server):
    assert raw(server, "custom status").startswith(b"HTTP/1.1 299 Sehr gut, danke\r\n")
    assert raw(server, "teapot").startswith(b"HTTP/1.1 418 I'm a teapot\r\n")


@pytest.mark.parametrize("name", ["Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade"])
def test_hop_by_hop_headers_are_refused_or_dropped(conn, name):
    reply = conn.request(path("head", case=name))
    if reply.status != 500:
        assert reply.status == 200 and reply.body == b"body"
        assert not {"x-hop", "timeout=99", "websocket"} & {value.lower() for _, value in reply.headers}
        assert len(reply.all("transfer-encoding")) <= 1
        assert not (reply.header("transfer-encoding") and reply.header("content-length"))
    assert conn.request("/whole").text == "block"


def test_none_as_exc_info(conn):
    assert conn.request("/no_exc_info").text == "body"


def test_a_list_changed_afterwards_has_no_effect(conn):
    reply = conn.request("/changed_afterwards")
    assert reply.header("x-before") == "yes" and not reply.header("x-after")
