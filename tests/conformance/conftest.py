import pytest

from conformance.support import unique
from harness import Atrio


class Shared:
    """One instance for many tests; a test that breaks it fails, and the next one gets another."""

    def __init__(self):
        self.instance = None

    def get(self):
        if self.instance is None:
            self.instance = Atrio("conformance", threads=4)
        return self.instance

    def drop(self):
        if self.instance is not None:
            self.instance.stop()
            self.instance = None


@pytest.fixture(scope="session")
def shared():
    shared = Shared()
    yield shared
    shared.drop()


@pytest.fixture
def server(shared):
    instance = shared.get()
    pid = instance.get("/pid").text
    yield instance
    try:
        assert instance.get("/pid", timeout=5).text == pid
    except (AssertionError, OSError, EOFError):
        log = instance.log()
        shared.drop()
        pytest.fail(f"this test broke the worker:\n{log[-3000:]}")


@pytest.fixture
def conn(server):
    with server.connect() as connection:
        yield connection


@pytest.fixture
def key():
    """A name for what the site remembers of one test."""
    return unique()
