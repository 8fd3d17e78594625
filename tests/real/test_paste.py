"""Paste: a site deployed by an ini file, files with ranges, and errors with an interpreter in the frame."""

import random
import re
from urllib.parse import urlencode

import pytest

SIZE = 300_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "large.bin").write_bytes(random.Random(2).randbytes(SIZE))
    (folder / "small.txt").write_text("a small file that FileApp keeps in memory")
    return folder


@pytest.fixture(scope="module")
def paste(serve, judged, files):
    with serve("paste", "middleware", judged, FILES=files) as server:
        yield server


def test_loadapp_mounts_the_applications_of_an_ini_file(paste):
    assert paste.get("/lobby").text == "Welcome at |/lobby"
    assert paste.get("/files/nothing").status == 404


def test_fileapp_serves_whole_files(paste, files):
    with paste.connect() as connection:
        for name in ("large.bin", "small.txt", "large.bin"):
            reply = connection.request(f"/files/{name}")
            assert (reply.status, reply.body) == (200, (files / name).read_bytes())


@pytest.mark.parametrize("first, last", [(0, 99), (100, 199), (65_536, 200_000), (SIZE - 1, SIZE - 1), (1, None)])
def test_fileapp_range_ends_where_it_says_and_keeps_the_connection_in_step(paste, files, first, last):
    whole = (files / "large.bin").read_bytes()
    with paste.connect() as connection:
        asked = f"bytes={first}-{'' if last is None else last}"
        reply = connection.request("/files/large.bin", [("Range", asked)])
        last = SIZE - 1 if last is None else last
        assert (reply.status, reply.body) == (206, whole[first : last + 1])
        assert reply.header("Content-Range") == f"bytes {first}-{last}/{SIZE}"
        assert connection.request("/files/small.txt").body == (files / "small.txt").read_bytes()


def test_fileapp_answers_conditions_and_head(paste):
    with paste.connect() as connection:
        whole = connection.request("/files/large.bin")
        head = connection.request("/files/large.bin", method="HEAD")
        assert (head.status, head.header("Content-Length"), head.body) == (200, str(SIZE), b"")
        for condition in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
            reply = connection.request("/files/large.bin", [(condition[0], whole.header(condition[1]))])
            assert (reply.status, reply.body) == (304, b"")
        assert connection.request("/files/large.bin", [("Range", f"bytes={SIZE}-")]).status == 416
        assert connection.request("/files/large.bin", method="POST", body=b"x").status == 405
        assert connection.request("/files/small.txt").complete


def test_error_catcher_hides_the_traceback_from_the_client_and_logs_it(paste):
    reply = paste.get("/guarded")
    assert reply.status == 500 and "The hall is closed." in reply.text and "LookupError" not in reply.text
    paste.wait_log("no chair for guest 42", 10)


def test_evalerror_shows_the_traceback_and_evaluates_in_its_frame(paste):
    page = paste.get("/debugged")
    assert page.status == 500 and "no chair for guest 42" in page.text
    count = re.search(r"/debugged/_debug/view/(\d+)$", page.header("X-Debug-URL"))[1]
    frame = re.findall(r'tbid="(\d+)"', page.text)[-1]
    form = urlencode({"debugcount": count, "tbid": frame, "input": "guests * 1000"}).encode()
    kind = [("Content-Type", "application/x-www-form-urlencoded")]
    answer = paste.get("/debugged/_debug/exec_input", kind, method="POST", body=form)
    assert answer.status == 200 and "41000" in answer.text
    assert "no chair for guest 42" in paste.get(f"/debugged/_debug/view/{count}").text
