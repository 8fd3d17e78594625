"""PEP 3333: the environ."""

import json
import re

import pytest

from conformance.support import exchange, head, path, replies
from harness import Atrio


def strings(reply):
    """The str values of the environ that the site has shown."""
    assert reply.status == 200, reply
    return json.loads(reply.body)["strings"]


def shown(server, target, *headers, method="GET", version="HTTP/1.1", body=b""):
    with server.connect() as c:
        c.send(head(f"{method} {target} {version}", *headers) + body)
        return strings(c.reply(method))


def test_required_keys_and_types(server):
    reply = server.get("/environment", method="POST", body=b"abc")
    seen = json.loads(reply.body)
    values, types = seen["strings"], seen["types"]
    assert seen["class"] == "builtins.dict"
    assert values["REQUEST_METHOD"] == "POST"
    assert values["SERVER_NAME"]
    assert values["SERVER_PORT"] == str(server.port)
    assert values["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert values["wsgi.url_scheme"] == "http"
    assert values["SCRIPT_NAME"] == "" and values["QUERY_STRING"] == "" and values["CONTENT_LENGTH"] == "3"
    assert values["HTTP_HOST"] == "test"
    assert seen["wsgi"]["version"] == [1, 0] and seen["version is a tuple"]
    assert [types[f"wsgi.{n}"] for n in ("multithread", "multiprocess", "run_once")] == ["bool"] * 3
    assert seen["wsgi"]["run_once"] is False
    assert seen["input"] == ["read", "readline", "readlines", "__iter__"]
    assert seen["errors"] == ["write", "writelines", "flush"]
    assert {k: t for k, t in types.items() if "." not in k and t != "str"} == {}


def test_no_environment_variable_of_the_process_leaks(server):
    values = shown(server, "/environment")
    assert not {"PATH", "HOME", "NOTIFY_SOCKET", "ATRIO_SITES"} & values.keys()


def test_multithread_and_multiprocess_tell_the_truth():
    for threads, workers in ((1, 1), (2, 1), (1, 2)):
        with Atrio("conformance", threads=threads, workers=workers) as atrio:
            told = json.loads(atrio.get("/environment").body)["wsgi"]
            assert (told["multithread"], told["multiprocess"]) == (threads > 1, workers > 1), (threads, workers)


@pytest.mark.parametrize(
    "request_", [("GET", b""), ("POST", b"a body of 21 bytes ok"), ("HEAD", b"")], ids=lambda r: r[0]
)
def test_wsgiref_validate_has_nothing_to_say(server, request_):
    method, body = request_
    reply = server.get("/validated/path?q=1", [("Content-Type", "text/x")] if body else [], method=method, body=body)
    assert reply.status == 200, reply
    assert reply.body == (b"" if method == "HEAD" else b"valid " + body)
    assert "without being closed" not in server.log()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("caf%C3%A9", "caf\xc3\xa9"),
        ("%E2%82%AC", "\xe2\x82\xac"),
        ("%FF", "\xff"),
        ("%ff%fE", "\xff\xfe"),
        ("a%20b", "a b"),
        ("a%25b", "a%b"),
        ("a%252Fb", "a%2Fb"),
        ("a%3Fb%23c", "a?b#c"),
        ("%61%41", "aA"),
        ("a+b;c=d,e", "a+b;c=d,e"),
        ("!$&'()*~@:-._", "!$&'()*~@:-._"),
        ("a..b/.../..c", "a..b/.../..c"),
        ("trailing/", "trailing/"),
    ],
)
def test_path_info_is_decoded_to_latin_1(server, sent, told):
    assert shown(server, f"/environment/{sent}")["PATH_INFO"] == f"/environment/{told}"


def test_encoded_slash_is_decoded_or_refused(server):
    reply = server.get("/environment/a%2Fb")
    assert reply.status in (400, 404) or strings(reply)["PATH_INFO"] == "/environment/a/b"


def test_raw_target_is_kept(server):
    target = "/environment/a%2Fb%20c?x=%20&y=/%2e"
    values = shown(server, target)
    assert values.get("RAW_URI", values.get("REQUEST_URI", target)) == target


@pytest.mark.parametrize(
    "target", ["/environment//double", "//environment/x", "/environment/./x", "/environment/a%00b"]
)
def test_odd_paths_get_a_sane_answer(server, target):
    reply = server.get(target)
    assert reply.status in (200, 400), reply
    if reply.status == 200:
        assert strings(reply)["PATH_INFO"] in (target.replace("%00", "\0"), target.replace("//", "/"), "/environment/x")


@pytest.mark.parametrize(
    "target",
    [
        "/..",
        "/../x",
        "/a/..",
        "/a/../b",
        "/a/../../b",
        "/%2e%2e/x",
        "/%2E./x",
        "/.%2e/x",
        "/a/..%2fb",
        "/a%2f..",
        "//../x",
    ],
)
def test_parent_segments_are_refused(server, target):
    (reply,) = replies(exchange(server, head(f"GET {target} HTTP/1.1")))
    assert reply.status == 400


def test_dots_in_the_query_are_free(server):
    assert shown(server, "/environment?a=/../b")["QUERY_STRING"] == "a=/../b"


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ("/environment", ""),
        ("/environment?", ""),
        ("/environment?a=b&c=%20%C3%A9+d", "a=b&c=%20%C3%A9+d"),
        ("/environment??a=b?c", "?a=b?c"),
        ("/environment?a=/b//c;d", "a=/b//c;d"),
    ],
)
def test_query_string_is_raw(server, target, query):
    values = shown(server, target)
    assert (values["QUERY_STRING"], values["PATH_INFO"]) == (query, "/environment")


@pytest.mark.parametrize("target", ["/", "/?a"])
def test_root(server, target):
    values = shown(server, target)
    assert (values["SCRIPT_NAME"], values["PATH_INFO"]) == ("", "/")


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_server_protocol_is_that_of_the_request(server, version):
    assert shown(server, "/environment", version=version)["SERVER_PROTOCOL"] == version


def test_address_of_the_client(server, conn):
    values = strings(conn.request("/environment"))
    address, port = conn.socket.getsockname()
    assert values["REMOTE_ADDR"] == address
    assert values["REMOTE_PORT"] == str(port)


def test_content_headers(server):
    values = shown(server, "/environment")
    assert not values.get("CONTENT_TYPE") and not values.get("CONTENT_LENGTH")
    headers = ("Content-Type: text/plain; a=b", "Content-Length: 3")
    values = shown(server, "/environment", *headers, method="POST", body=b"abc")
    assert (values["CONTENT_TYPE"], values["CONTENT_LENGTH"]) == ("text/plain; a=b", "3")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & values.keys()


def test_chunked_body_has_no_content_length_of_the_client(server):
    values = shown(server, "/environment", "Transfer-Encoding: chunked", method="POST", body=b"3\r\nabc\r\n0\r\n\r\n")
    assert values.get("CONTENT_LENGTH", "") in ("", "3")


def test_repeated_headers_are_joined_in_order(server):
    values = shown(server, "/environment", "X-A: 1", "X-B: other", "x-a: 2, 2b", "X-A: 3")
    assert re.split(", ?", values["HTTP_X_A"]) == ["1", "2", "2b", "3"]
    assert values["HTTP_X_B"] == "other"


def test_repeated_cookies_are_joined_with_semicolons(server):
    assert shown(server, "/environment", "Cookie: a=1", "X-B: c", "Cookie: b=2; c=3")["HTTP_COOKIE"] == "a=1; b=2; c=3"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"X-A: \t padded \t ", "padded"),
        (b"X-A:tight", "tight"),
        (b"X-A:", ""),
        (b"X-A: in \t side", "in \t side"),
        (b"X-A: caf\xe9 \xff\x80", "caf\xe9 \xff\x80"),
        (b"X-A: \xe2\x82\xac", "\xe2\x82\xac"),
        (b"X-A: \xa0nbsp\xa0", "\xa0nbsp\xa0"),
        (b'X-A: a:b "c, d" (e) = %20', 'a:b "c, d" (e) = %20'),
    ],
    ids=lambda x: repr(x) if isinstance(x, bytes) else "",
)
def test_header_value_is_trimmed_and_its_bytes_kept(server, sent, told):
    assert shown(server, "/environment", sent)["HTTP_X_A"] == told


def test_every_token_byte_is_allowed_in_a_header_name(server):
    assert shown(server, "/environment", "X!#$%&'*+-.^`|~9: yes")["HTTP_X!#$%&'*+_.^`|~9"] == "yes"


def test_underscores_cannot_pose_as_hyphens(server):
    headers = ["X_Forwarded_For: 6.6.6.6", "X-Real_IP: 6.6.6.6", "X-Real-IP: 1.1.1.1", "X_Real-IP: 6.6.6.6"]
    values = shown(
        server, "/environment", *headers, "Content_Length: 99", "Transfer_Encoding: chunked", "Content_Type: a/b"
    )
    assert "HTTP_X_FORWARDED_FOR" not in values and values["HTTP_X_REAL_IP"] == "1.1.1.1"
    assert "6.6.6.6" not in repr(values)
    assert not values.get("CONTENT_LENGTH") and not values.get("CONTENT_TYPE")
    assert not {"HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_TYPE"} & values.keys()


@pytest.mark.parametrize("name", ["Proxy", "proxy", "PROXY"])
def test_proxy_header_is_dropped(server, name):
    assert "HTTP_PROXY" not in shown(server, "/environment", f"{name}: http://evil")


def test_each_request_has_a_fresh_environ(conn):
    assert conn.request("/mark", [("X-First", "yes")]).text == "fresh"
    assert conn.request("/mark").text == "fresh"
    values = strings(conn.request("/environment"))
    assert not {"test.mark", "HTTP_MARKED", "HTTP_X_FIRST"} & values.keys()


def test_absolute_form_target(server):
    values = shown(server, "http://example.com:81/environment/x?a=b")
    assert (values["PATH_INFO"], values["QUERY_STRING"]) == ("/environment/x", "a=b")


def test_absolute_form_target_wins_over_host(server):
    """RFC 9112, 3.2.2."""
    assert shown(server, "http://example.com:81/environment")["HTTP_HOST"] == "example.com:81"


def test_absolute_form_without_path(server):
    assert shown(server, "http://example.com")["PATH_INFO"] in ("", "/")


def test_options_asterisk(server):
    reply = server.get("*", method="OPTIONS")
    assert reply.status in (200, 204, 400, 404, 405), reply
    if reply.status == 200 and reply.body:
        assert strings(reply)["PATH_INFO"] in ("*", "/*", "/", "")


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "M-SEARCH", "DELETE", "PATCH", "get", "X!#$%&'*+.^`|~"])
def test_any_method_is_passed_on(server, method):
    assert shown(server, "/environment", method=method)["REQUEST_METHOD"] == method


def test_file_wrapper_is_offered(server):
    assert json.loads(server.get("/environment").body)["file_wrapper"]


def test_input_terminated(server):
    assert json.loads(server.get("/environment").body)["input_terminated"] is True


def test_extra_keys_are_named_as_pep_3333_asks(server):
    names = json.loads(server.get("/environment").body)["types"]
    assert [n for n in names if "." not in n and not re.fullmatch("[A-Z][A-Z0-9_]*", n)] == []


def test_path_helper_round_trips(server):
    """The arguments of every other test go through here."""
    assert shown(server, path("environment", a="b c", d="\xe9"))["QUERY_STRING"] == "a=b+c&d=%C3%A9"
