"""Settings: where they come from, what is shown of them, and what is said of wrong ones."""

import json
import re
import socket
import sys
import tomllib
from signal import SIGKILL

import pytest

from behaviour.support import answer, refused, site, started_by, started_by_shell
from harness import ROOT, Atrio, Connection, run


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        return chosen.getsockname()[1]


def settings(*args, **given):
    """What `atrio config` says: {key: (value, origin)}."""
    result = run("config", "--format", "json", *args, **given)
    assert result.returncode == 0, result
    return {key: (entry["value"], entry["origin"]) for key, entry in json.loads(result.stdout).items()}


def test_an_unknown_variable_is_refused_with_the_nearest_name(tmp_path):
    refused(sites=site(tmp_path), thread="4", says=["ATRIO_THREAD", "ATRIO_THREADS"])
    refused(sites=site(tmp_path), lissen="80", says=["ATRIO_LISSEN", "ATRIO_LISTEN"])


def test_all_problems_are_reported_at_once(tmp_path):
    result = run(sites=site(tmp_path), thread="4", workers="many", queue="0", drain_timeout="soon", listen="here")
    assert (result.returncode, result.stdout) == (78, "")
    for words in (
        "ATRIO_THREAD:",
        "ATRIO_WORKERS=many",
        "ATRIO_QUEUE=0",
        "ATRIO_DRAIN_TIMEOUT=soon",
        "ATRIO_LISTEN=here",
    ):
        assert words in result.stderr
    assert len(result.stderr.splitlines()) == 5


def test_flag_goes_before_variable_before_file_before_convention_before_default(tmp_path):
    site(tmp_path)
    given = {"sites": tmp_path, "listen": None, "admin_listen": None}
    default, convention, variable = ("auto", "default"), (2, "WEB_CONCURRENCY"), (4, "ATRIO_WORKERS")
    assert settings(**given)["workers"] == default
    given["WEB_CONCURRENCY"] = "2"
    assert settings(**given)["workers"] == convention
    (tmp_path / "atrio.toml").write_text("workers = 3\n")
    assert settings(**given)["workers"] == (3, f"{tmp_path}/atrio.toml")
    given["workers"] = "4"
    assert settings(**given)["workers"] == variable
    assert settings("--workers", "5", **given)["workers"] == (5, "--workers")
    assert settings("--workers=6", **given)["workers"] == (6, "--workers")


def test_settings_of_a_file_count_when_serving(tmp_path):
    site(tmp_path, "[environ['wsgi.multithread'], environ['COLOUR']]")
    (tmp_path / "atrio.toml").write_text('threads = 1\n[env]\nCOLOUR = "blue"\n')
    with Atrio(tmp_path) as server:
        assert answer(server) == [False, "blue"]
    with Atrio(tmp_path, "serve", "--threads", "2", "--env", "COLOUR=red") as server:
        assert answer(server) == [True, "red"]
        assert server.metric("atrio_threads") == 2


def test_a_value_can_come_from_a_file_and_is_not_shown(tmp_path):
    (tmp_path / "secret").write_text("swordfish\n")
    folder = site(tmp_path / "site", "environ['TOKEN']")
    with Atrio(folder, env_TOKEN_FILE=tmp_path / "secret") as server:
        assert answer(server) == "swordfish"
    for form in ("text", "env", "toml", "json"):
        shown = run("config", "--format", form, sites=folder, env_TOKEN_FILE=tmp_path / "secret")
        assert shown.returncode == 0
        assert "TOKEN" in shown.stdout and "swordfish" not in shown.stdout
    refused(sites=folder, threads_FILE="/nonexistent", says=["ATRIO_THREADS_FILE=/nonexistent"])
    (tmp_path / "number").write_text("3")
    refused(sites=folder, threads=2, threads_FILE=tmp_path / "number", says=["ATRIO_THREADS_FILE", "both set"])


def test_config_shows_every_setting_with_its_origin_in_every_form(tmp_path):
    table = re.search(r"(?s)<!-- settings -->(.*)<!-- /settings -->", (ROOT / "README.md").read_text())[1]
    documented = set(re.findall(r"`(ATRIO_\w+)`", table)) - {"ATRIO_ENV_NAME"}
    shown = settings(sites=site(tmp_path), threads=3)
    assert {f"ATRIO_{key.upper()}" for key in shown} == documented
    assert shown["threads"] == (3, "ATRIO_THREADS")
    assert shown["sites"] == (str(tmp_path), "ATRIO_SITES")
    text = run("config", sites=tmp_path, threads=3).stdout
    assert re.search(r"(?m)^threads +3 +ATRIO_THREADS$", text)
    assert re.search(r"(?m)^queue +128 +default$", text)
    assert tomllib.loads(run("config", "--format", "toml", sites=tmp_path, threads=3).stdout)["threads"] == 3
    assert "ATRIO_THREADS=3\n" in run("config", "--format=env", sites=tmp_path, threads=3).stdout
    assert run("config", "--format", "xml").returncode == 64


def test_help_names_every_setting_and_the_version_is_told():
    for flag in ("--help", "-h", "help"):
        result = run(flag)
        assert (result.returncode, result.stderr) == (0, "")
        for word in ("ATRIO_THREADS", "--threads", "config", "python"):
            assert word in result.stdout
    assert re.fullmatch(r"atrio \d+\.\d+\.\d+ \(Python 3\.\d+\)\n", run("--version").stdout)


def test_a_wrong_command_or_flag_is_refused_with_the_nearest():
    refused("srve", code=64, says=["srve", "atrio serve", "atrio --help"])
    refused("--thread", "4", says=["--thread", "--threads"])
    refused("--threads", says=["--threads", "no value"])
    refused("serve", "shop", says=["shop", "atrio --help"])


def test_an_address_in_use_is_named(tmp_path):
    site(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused(sites=tmp_path, listen=address, code=69, says=["ATRIO_LISTEN", address, "choose another address"])
        refused(sites=tmp_path, admin_listen=address, code=69, says=["ATRIO_ADMIN_LISTEN", address, "another address"])
    refused(sites=tmp_path, listen="192.0.2.1:80", code=69, says=["ATRIO_LISTEN", "192.0.2.1:80"])


def test_an_admin_address_in_use_that_nobody_asked_for_is_done_without(tmp_path):
    """9090 is taken here, if not by somebody else already."""
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", 9090))
            other.listen()
        except OSError:
            pass
        with Atrio(site(tmp_path), admin_listen=None) as server:
            assert answer(server) == "here"
            assert server.admin_port is None
            assert "ATRIO_ADMIN_LISTEN" in server.log() and "127.0.0.1:9090" in server.log()


def test_the_admin_listener_can_be_off(tmp_path):
    with Atrio(site(tmp_path), admin_listen="off") as server:
        assert answer(server) == "here"
        assert "X_ATRIO_ADMIN_LISTEN=" in server.said
        assert "WARN" not in server.log()


def test_the_conventional_port_counts(tmp_path):
    port = free_port()
    with Atrio(site(tmp_path), listen=None, PORT=port) as server:
        assert server.listen == [f"0.0.0.0:{port}"]
        assert answer(server) == "here"
    with Atrio(tmp_path, PORT="nonsense") as server:
        assert answer(server) == "here", "ATRIO_LISTEN goes before it"
    refused(sites=tmp_path, listen=None, PORT="nonsense", says="PORT=nonsense")


def test_several_addresses_are_served(tmp_path):
    path = tmp_path / "atrio.sock"
    value = "[environ['SERVER_NAME'], environ['SERVER_PORT'], environ['REMOTE_ADDR']]"
    with Atrio(site(tmp_path / "site", value), listen=f"127.0.0.1:0,localhost:0,unix:{path}") as server:
        first, second, third = server.listen
        assert third == f"unix:{path}"
        for address in (first, second):
            port = address.rpartition(":")[2]
            with Connection(int(port)) as connection:
                assert json.loads(connection.request().body) == ["127.0.0.1", port, "127.0.0.1"]
        with Connection(path) as connection:
            assert json.loads(connection.request().body)[2] == ""


def test_a_unix_socket_that_a_killed_server_left_is_taken_over(tmp_path):
    path = tmp_path / "atrio.sock"
    with Atrio(site(tmp_path / "site"), listen=f"unix:{path}") as server:
        server.signal(SIGKILL)
        server.wait()
    assert path.exists()
    with Atrio(tmp_path / "site", listen=f"unix:{path}"), Connection(path) as connection:
        assert connection.request().status == 200


def test_a_unix_socket_that_another_server_serves_is_left_to_it(tmp_path):
    path = tmp_path / "atrio.sock"
    with Atrio(site(tmp_path / "site"), listen=f"unix:{path}"):
        refused(sites=tmp_path / "site", listen=f"unix:{path}", code=69, says=["ATRIO_LISTEN", str(path)])
        with Connection(path) as connection:
            assert connection.request().status == 200


def test_a_unix_socket_that_cannot_be_made_is_named(tmp_path):
    site(tmp_path / "site")
    refused(sites=tmp_path / "site", listen="unix:/nonexistent/a.sock", says=["ATRIO_LISTEN", "/nonexistent/a.sock"])
    taken = tmp_path / "file"
    taken.write_text("precious")
    with Atrio(tmp_path / "site", ready=False, listen=f"unix:{taken}") as server:
        assert server.wait(10) == 69
        assert "ATRIO_LISTEN" in server.log() and str(taken) in server.log()
    assert taken.read_text() == "precious"
    long = tmp_path / ("long" * 50)
    assert "ATRIO_LISTEN" in run(sites=tmp_path / "site", listen=f"unix:{long}").stderr


OUTPUT = pytest.mark.binary("the output of a container is the engine's")
REDIRECTIONS = [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@OUTPUT
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_it_serves_whatever_becomes_of_its_output(tmp_path, redirection):
    folder = site(tmp_path / "site", "print('a line of the site') or 'here'")
    with started_by_shell(tmp_path, redirection), Atrio(folder, workers=2) as server:
        for _ in range(20):
            assert answer(server) == "here"
        if redirection == ">/dev/full":
            server.wait_log("ATRIO_ACCESS_LOG=off")
        server.signal(15)
        assert server.wait(10) == 0
        assert server.log().count("access log cannot be written") <= 2, "once for each worker"


@OUTPUT
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_errors_have_their_code_whatever_becomes_of_the_output(tmp_path, redirection):
    with started_by_shell(tmp_path, redirection):
        result = run(sites=tmp_path / "none", timeout=20)
        assert result.returncode == 78
        assert "panicked" not in result.stderr


@OUTPUT
@pytest.mark.parametrize("command", ["--help", "--version", "config"])
def test_what_cannot_be_printed_is_one_message(tmp_path, command):
    with started_by_shell(tmp_path, ">/dev/full"):
        refused(command, code=74, says=["cannot write to stdout", "No space left"])


@OUTPUT
def test_a_reader_that_has_read_enough_is_no_error(tmp_path):
    with started_by_shell(tmp_path, "| head -n 1"):
        result = run("--help")
        assert (result.stdout.count("\n"), result.stderr) == (1, "")


UNREAD = """#!{python}
import os, sys
read, write = os.pipe()
os.close(read)
for stream in {streams}:
    os.dup2(write, stream)
os.execv("BINARY", ["BINARY", *sys.argv[1:]])
"""


@OUTPUT
@pytest.mark.parametrize("streams", [[1], [2], [1, 2]])
def test_it_serves_when_the_reader_of_its_output_is_gone(tmp_path, streams):
    folder = site(tmp_path / "site", "print('a line of the site') or 'here'")
    with started_by(tmp_path, UNREAD.format(python=sys.executable, streams=streams)), Atrio(folder) as server:
        for _ in range(20):
            assert answer(server) == "here"
        server.signal(15)
        assert server.wait(10) == 0
