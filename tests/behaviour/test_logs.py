"""The log on stderr, the access log on stdout, and the id that goes through both."""

import json
import os
import re
import subprocess

import pytest

import harness
from behaviour.support import records, site, write
from harness import Atrio, clean_environment, eventually


def logged(folder, value, top="", **settings):
    """What one request left in the log: its records, and the request's id."""
    with Atrio(site(folder, f"{value} and None", top), **settings) as server:
        reply = server.get()
        assert reply.status == 200, server.log()
        request_id = reply.header("x-request-id")
        server.stop()
        return [record for record in records(server.log()) if record.get("request_id") == request_id]


PRINTS = {
    "print": ("print('hello é')", "hello é"),
    "stderr": ("print('hello', file=sys.stderr)", "hello"),
    "errors": ("print('hello', file=environ['wsgi.errors'])", "hello"),
    "two writes": ("[sys.stdout.write('hel'), sys.stdout.write('lo\\n')]", "hello"),
    "lines": ("print('one\\ntwo')", "one\ntwo"),
    "no end of line": ("print('hello', end='')", "hello"),
    "flushed": ("print('hello', end='', flush=True)", "hello"),
    "bytes": ("sys.stdout.buffer.write(b'hello\\n')", "hello"),
    "writelines": ("environ['wsgi.errors'].writelines(['hel', 'lo\\n'])", "hello"),
    "surrogate": ("print('caf\\udce9', file=sys.stderr)", "caf\\udce9"),
    "surrogate on stdout": ("print('caf\\udce9')", "caf\\udce9"),
    "rewrapped": ("print('hello', file=io.TextIOWrapper(sys.stdout.buffer, 'utf-8', write_through=True))", "hello"),
    "codec": ("print('hello', file=codecs.getwriter('utf-8')(sys.stdout.buffer))", "hello"),
    "reconfigured": ("[sys.stdout.reconfigure(encoding='utf-8', line_buffering=True), print('hello')]", "hello"),
    "logging": ("logging.getLogger('shop').warning('hello %s', 5)", "hello 5"),
    "warnings": ("warnings.warn('hello', stacklevel=1)", "UserWarning: hello"),
    "traceback": ("logging.getLogger('shop').error('hello', exc_info=ValueError('wrong'))", "ValueError: wrong"),
}


@pytest.mark.parametrize("kind", PRINTS)
def test_what_a_request_prints_is_one_record_with_its_id(tmp_path, kind):
    value, expected = PRINTS[kind]
    found = logged(tmp_path, f"({value})", "import codecs, io, logging, warnings")
    assert [record["message"] for record in found if expected in record["message"]], found
    assert len(found) == 1


def test_stdout_may_be_stderr_as_mod_wsgi_s_manual_advises(tmp_path):
    (record,) = logged(tmp_path, "print('hello')", "sys.stdout = sys.stderr")
    assert record["message"] == "hello"


def test_a_log_handler_made_at_import_works_in_requests(tmp_path):
    top = "import logging\nlogging.basicConfig(level='INFO', format='%(name)s|%(message)s')"
    (record,) = logged(tmp_path, "logging.getLogger('shop').info('hello')", top)
    assert record["message"] == "shop|hello"


def test_what_the_import_prints_is_logged(tmp_path):
    top = "import warnings\nprint('from print')\nwarnings.warn('from warn')\nprint('no end', end='')"
    with Atrio(site(tmp_path, top=top)) as server:
        server.stop()
        messages = [record["message"] for record in records(server.log())]
    for words in ("from print", "UserWarning: from warn", "no end"):
        assert [message for message in messages if words in message], words


def test_what_other_threads_print_is_not_mixed_up(tmp_path):
    """Half a line of one request never becomes part of another's record."""
    with Atrio(site(tmp_path, "print('half of', environ['QUERY_STRING'], end='')"), threads=1) as server:
        ids = {server.get(f"/?{name}").header("x-request-id"): name for name in ("a", "b", "c")}
        server.stop()
        found = {r["request_id"]: r["message"] for r in records(server.log()) if "half of" in r["message"]}
    assert found == {request_id: f"half of {name}" for request_id, name in ids.items()}


def test_a_traceback_of_a_request_is_one_record_with_its_id(tmp_path):
    code = """
        def deep():
            try:
                {}["shop"]
            except KeyError as error:
                raise ValueError("caf\\udce9") from error

        def application(environ, start_response):
            deep()
    """
    with Atrio(write(tmp_path, code)) as server:
        reply = server.get("/path?query")
        assert reply.status == 500
        assert "Traceback" not in reply.text and "caf" not in reply.text
        server.wait_log("ValueError")
        (record,) = [record for record in records(server.log()) if record["level"] == "ERROR"]
    assert record["request_id"] == reply.header("x-request-id")
    for words in ("/path", "KeyError: 'shop'", "direct cause", "in deep", "ValueError: caf", f"{tmp_path}/root.py"):
        assert words in record["message"]


@pytest.mark.parametrize("text", ["text", "json"])
def test_the_form_of_the_log_can_be_chosen(tmp_path, text):
    with Atrio(site(tmp_path, "print('hello')"), log_format=text, access_log="off") as server:
        request_id = server.get().header("x-request-id")
        server.wait_log("hello")
        log = server.log()
    if text == "json":
        (record,) = [record for record in records(log) if record["message"] == "hello"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", record["timestamp"])
        assert (record["level"], record["request_id"]) == ("INFO", request_id)
    else:
        assert re.search(rf"(?m)^\d{{4}}-\S+Z +INFO .*hello.*{request_id}", log)
        assert "\x1b" not in log, "a file has no colours"


def test_the_level_of_the_log_can_be_chosen(tmp_path):
    with Atrio(site(tmp_path, "print('hello')"), log="warn") as server:
        server.get()
        server.stop()
        assert server.log() == ""


def test_the_level_of_a_part_can_be_chosen(tmp_path):
    with Atrio(site(tmp_path, "print('hello')"), log="warn, site=INFO", access_log="off") as server:
        server.get()
        server.stop()
        assert [record["message"] for record in records(server.log())] == ["hello"]


def test_a_terminal_gets_text(tmp_path):
    ours, theirs = os.openpty()
    variables = {"ATRIO_LISTEN": "127.0.0.1:0", "ATRIO_ADMIN_LISTEN": "off", "ATRIO_SITES": site(tmp_path)}
    process = subprocess.Popen(
        [harness.BINARY], stdin=theirs, stdout=theirs, stderr=theirs, env=clean_environment(**variables)
    )
    os.close(theirs)
    shown = b""
    while b"serving" not in shown:
        shown += os.read(ours, 1000)
    process.terminate()
    assert process.wait(20) == 0
    os.close(ours)
    assert b"INFO" in shown and b'"level"' not in shown


def access(server, **options):
    """The one line of the access log that a request leaves, and the request's id."""
    before = len(server.access_log().splitlines())
    reply = server.get(**options)
    lines = eventually(lambda: server.access_log().endswith("\n") and server.access_log().splitlines()[before:])
    assert len(lines) == 1
    return lines[0], reply.header("x-request-id")


COMMON = r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a%20b\?c HTTP/1\.1" 200 6'
TIMES = r" \d+\.\d{6} \d+\.\d{6} "


@pytest.mark.parametrize(("form", "middle"), [("common", ""), ("combined", r' "http://from/" "test \\"agent\\""')])
def test_the_common_forms_of_the_access_log_tell_times_and_id(tmp_path, form, middle):
    headers = [("Referer", "http://from/"), ("User-Agent", 'test "agent"')]
    with Atrio(site(tmp_path), access_log=form) as server:
        line, request_id = access(server, path="/a%20b?c", headers=headers)
        assert re.fullmatch(COMMON + middle + TIMES + request_id, line), line


@pytest.mark.parametrize("setting", [{"access_log": "json"}, {"access_log": "on", "log_format": "json"}, {}])
def test_the_json_form_of_the_access_log_tells_all(tmp_path, setting):
    with Atrio(site(tmp_path / "shop"), **setting) as server:
        line, request_id = access(server, path="/a?b", headers=[("User-Agent", "test")])
    entry = json.loads(line)
    expected = {"site": "shop", "method": "GET", "target": "/a?b", "status": 200, "bytes": 6, "user_agent": "test"}
    assert expected | {"request_id": request_id, "remote_addr": "127.0.0.1"} == {
        key: entry[key] for key in [*expected, "request_id", "remote_addr"]
    }
    assert entry["duration"] >= entry["queue_time"] >= 0


def test_an_ipv4_client_of_an_ipv6_socket_has_its_own_address(tmp_path):
    with Atrio(site(tmp_path, "environ['REMOTE_ADDR']"), listen="[::]:0", access_log="json") as server:
        assert server.get().text == '"127.0.0.1"'
        server.stop()
        assert records(server.access_log())[0]["remote_addr"] == "127.0.0.1"


def test_the_access_log_can_be_off(tmp_path):
    with Atrio(site(tmp_path), access_log="off") as server:
        server.get()
        server.stop()
        assert server.access_log() == ""


@pytest.mark.parametrize("path", ["/../etc/passwd", '/?"', "*"])
def test_refused_requests_are_in_the_access_log(tmp_path, path):
    with Atrio(site(tmp_path), access_log="json") as server:
        assert server.get(path).status == 400
        server.wait_log('"status":400', 10, where="access_log")
        assert server.metric('atrio_requests_rejected_total{reason="bad_request"}') == 1


GIVEN = "id-of-the-proxy.42"


def test_the_id_of_a_trusted_proxy_goes_to_site_client_and_logs(tmp_path):
    value = "[print('hello'), environ['HTTP_X_REQUEST_ID']]"
    with Atrio(site(tmp_path, value)) as server:
        reply = server.get(headers=[("X-Request-ID", GIVEN)])
        assert json.loads(reply.body)[1] == GIVEN
        assert reply.all("x-request-id") == [GIVEN]
        server.wait_log(f'"request_id":"{GIVEN}"')
        server.wait_log(f'"request_id":"{GIVEN}"', where="access_log")


@pytest.mark.parametrize("given", [[], [GIVEN], ["not one word"], ['quo"te'], ["x" * 1000], ["a", "b"], [""]])
def test_else_a_new_id_is_made_for_every_request(tmp_path, given):
    trusted = "off" if given == [GIVEN] else "127.0.0.1"
    with Atrio(site(tmp_path, "environ['HTTP_X_REQUEST_ID']"), trusted_proxies=trusted) as server:
        seen = set()
        for _ in range(3):
            reply = server.get(headers=[("X-Request-ID", value) for value in given])
            assert [json.loads(reply.body)] == reply.all("x-request-id")
            seen.add(reply.header("x-request-id"))
    if given != ["a", "b"]:
        assert len(seen) == 3
        assert all(re.fullmatch(r"[0-9a-f-]{32,36}", request_id) for request_id in seen)


def test_a_site_that_sets_the_id_itself_is_not_contradicted(tmp_path):
    code = """
        def application(environ, start_response):
            start_response("200 OK", [("X-Request-ID", "mine"), ("Content-Length", "0")])
            return []
    """
    with Atrio(write(tmp_path, code)) as server:
        assert server.get().all("x-request-id") == ["mine"]
