"""GenroPy from PyPI behind the root.py of its manual: page, assets, RPC, ranges, login in a browser, many at once."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import Atrio, eventually

from .chromium import Chromium
from .genro import Genro, Visitor
from .tools import paused

CLIENTS = 25
SHAPES = {"one worker": {}, "two workers": {"workers": 2}, "25 threads": {"threads": 25}}


@pytest.fixture(scope="module")
def genro(tmp_path_factory, venv):
    with Genro(tmp_path_factory.mktemp("genro"), venv("genropy")) as genro:
        yield genro


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def server(genro, request):
    with Atrio(genro.site, **genro.settings, **request.param) as server:
        yield server


@pytest.fixture
def visitor(server):
    with Visitor(server) as visitor:
        yield visitor


def established(pid):
    """The sockets of a process that are connected over TCP, by inode."""
    table = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    connected = {fields[9] for fields in table if fields[3] == "01"}
    links = (os.readlink(f.path) for f in os.scandir(f"/proc/{pid}/fd"))
    return {link[8:-1] for link in links if link.startswith("socket:[")} & connected


def test_index_page_and_every_asset_of_it(genro, visitor):
    assert "new gnr.GenroClient" in visitor.index.text
    assets = visitor.assets()
    assert len(assets) > 50
    for path in assets:
        reply, file = visitor.get(path), genro.on_disk(path)
        if path.startswith("/_rsrc/mobile/"):
            # The page names icons of a resource that GenroPy's own siteconfig does not enable.
            assert reply.status == 404, (path, reply)
        elif file:
            assert (reply.status, reply.body) == (200, file.read_bytes()), path
        else:
            assert reply.status == 200 and reply.complete and reply.body, (path, reply)


def test_range_of_an_asset_is_exact_and_keeps_the_connection_in_step(genro, visitor):
    path = "/_dojo/11/dojo/dojo/dojo.js"
    whole = genro.on_disk(path).read_bytes()
    for asked, part in (("100-199", whole[100:200]), ("0-9", whole[:10]), (f"{len(whole) - 7}-", whole[-7:])):
        reply = visitor.get(path, ("Range", f"bytes={asked}"))
        assert (reply.status, reply.body) == (206, part)
        assert reply.header("Content-Range").endswith(f"/{len(whole)}")
    etag = visitor.get(path).header("ETag")
    assert visitor.get(path, ("If-None-Match", etag)).status == 304
    assert visitor.get(path).body == whole


def test_rpc_builds_the_page(visitor):
    reply = visitor.rpc("main")
    assert reply.status == 200 and reply.header("Content-Type").startswith("text/xml"), reply
    assert "<GenRoBag>" in reply.text and "index_loginbox" in reply.text


def test_25_visitors_at_once_see_no_error_and_only_their_own_page(server):
    def visit(number):
        with Visitor(server) as visitor:
            replies = [visitor.rpc("main")]
            for turn in range(2):
                token = f"visitor-{number}-{turn}"
                replies.append(visitor.rpc("setInServer", path="test.token", value=token))
                replies.append(visitor.get("/_gnr/11/js/genro.js"))
                replies.append(visitor.rpc("getPageStoreData"))
                assert re.findall(r"visitor-\d+-\d+", replies[-1].text) == [token], replies[-1]
            return visitor.page_id, [(r.status, r.complete) for r in replies]

    with ThreadPoolExecutor(CLIENTS) as pool:
        visits = list(pool.map(visit, range(CLIENTS)))
    assert len({page for page, _ in visits}) == CLIENTS
    assert {outcome for _, outcomes in visits for outcome in outcomes} == {(200, True)}
    assert "Traceback" not in server.log()


def test_page_made_by_one_worker_lives_in_the_other(genro):
    with Atrio(genro.site, workers=2, **genro.settings) as server:
        one, other = eventually(lambda: len(server.workers()) == 2 and server.workers(), what="two workers")
        with paused(one):
            visitor = Visitor(server)
            assert visitor.rpc("setInServer", path="test.token", value="a-token").status == 200
        with paused(other), visitor:
            visitor.reconnect()
            assert "a-token" in visitor.rpc("getPageStoreData").text


def test_wsgiref_finds_no_fault(serve, genro):
    with serve(genro.site, "genropy", judged=True, **genro.settings) as server, Visitor(server) as visitor:
        assert visitor.rpc("main").status == 200
        path = "/_dojo/11/dojo/dojo/dojo.js"
        whole = visitor.get(path)
        assert visitor.get(path, ("Range", "bytes=7-70000")).body == whole.body[7:70_001]
        assert visitor.get(path, ("If-None-Match", whole.header("ETag"))).status == 304
        assert "Traceback" not in server.log() and "without being closed" not in server.log()


def test_login_in_chromium(genro, server):
    home = f"http://127.0.0.1:{server.port}/"
    with Chromium() as browser:
        browser.open(home)
        browser.wait("document.activeElement.type == 'text'")
        browser.type("admin")
        browser.press("Tab", 9)
        browser.wait("document.activeElement.type == 'password'")
        browser.type(genro.password)
        browser.press("Tab", 9)
        browser.wait("genro.getData('gnr.avatar.user') == 'admin'")
        browser.click(".login_confirm_btn")
        browser.wait("document.body.innerText.includes('Users setup')")
        assert browser.evaluate("genro.getData('gnr.rootenv.user')") == "admin"
        assert not browser.complaints
        assert not [f for f in browser.failures if f[1].startswith(home)]
    assert "Traceback" not in server.log()


def test_sockets_open_after_the_import_make_preload_fall_back(genro):
    with Atrio(genro.site, workers=2, **genro.settings) as server:
        assert re.search(r"(?i)preload.*socket|socket.*preload", server.log()), server.log()
        workers = eventually(lambda: len(server.workers()) == 2 and server.workers(), what="two workers")
        held = [established(pid) for pid in server.children() if server.children()[pid] != "atrio"]
        assert sum(map(bool, held)) >= len(workers), held
        assert len(set().union(*held)) == sum(map(len, held)), f"one connection to the daemon in two processes: {held}"
