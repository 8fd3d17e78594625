"""Beaker sessions of every backend live from one request to the next, in another worker too."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from .tools import paused

KINDS = ("memory", "file", "cookie", "ext:database")
SHARED = KINDS[1:]
"""What does not live in the memory of one worker."""


@pytest.fixture
def beaker(serve, judged, tmp_path):
    return lambda kind, **settings: serve(
        "beaker", "middleware", judged, SESSION_TYPE=kind, SESSION_FOLDER=tmp_path, **settings
    )


class Browser:
    """Keeps the session's cookie; every visit is a connection of its own."""

    def __init__(self, server):
        self.server, self.cookie = server, []

    def visit(self):
        """The visit's number and the pid that answered."""
        reply = self.server.get("/", self.cookie)
        assert reply.status == 200, (reply, self.server.log())
        if cookie := reply.header("Set-Cookie"):
            self.cookie = [("Cookie", cookie.partition(";")[0])]
        number, pid = map(int, reply.text.split())
        return number, pid


@pytest.mark.parametrize("kind", KINDS)
def test_session_lives_over_requests(beaker, kind):
    with beaker(kind) as server:
        browser, stranger = Browser(server), Browser(server)
        assert [browser.visit()[0] for _ in range(3)] == [1, 2, 3]
        assert stranger.visit()[0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_of_25_browsers_at_once_stay_apart(beaker, kind):
    with beaker(kind) as server, ThreadPoolExecutor(25) as pool:

        def visits(browser):
            return [browser.visit()[0] for _ in range(4)]

        assert list(pool.map(visits, [Browser(server) for _ in range(25)])) == [[1, 2, 3, 4]] * 25


@pytest.mark.parametrize("kind", SHARED)
def test_session_lives_over_workers(beaker, kind):
    with beaker(kind, workers=2) as server:
        browser = Browser(server)
        number, first = browser.visit()
        with paused(first):
            again, second = browser.visit()
        with paused(second):
            last, third = browser.visit()
        assert first == third != second
        assert (number, again, last) == (1, 2, 3)
