"""Files handed to wsgi.file_wrapper. Each holds CONTENT of size SIZE; close() of each is noted."""

import gzip
import io
import tempfile

from . import argument, behaviour, note

SIZE = 300_000
CONTENT = b"".join(b"%09d\n" % n for n in range(SIZE // 10))


class Noted:
    """A file that notes its close(); it offers fileno only when the file below has a real one."""

    def __init__(self, environ, file, fileno=True):
        self.environ, self.file = environ, file
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
        if fileno:
            self.fileno = file.fileno

    def close(self):
        note(self.environ, "closed")
        self.file.close()


class OnlyReads:
    """The least that PEP 3333 asks of a file: read(size)."""

    def __init__(self, content):
        self.read = io.BytesIO(content).read


def _temporary(content=CONTENT):
    file = tempfile.TemporaryFile()  # noqa: SIM115  the server closes it
    file.write(content)
    file.seek(0)
    return file


def _reopened(buffering):
    """A file that is only read, and has no name any more."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        return open(file.name, "rb", buffering)


def _large():
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(b"x")
    file.seek(0)
    file.truncate(24 << 20)
    return file


@behaviour
def file(environ, start_response):
    """`what`: the kind of file, `from`: its position, by a buffered read, `length`: the Content-Length, if any."""
    what, start, length = (argument(environ, name) for name in ("what", "from", "length"))
    content = {
        "file": lambda: Noted(environ, _temporary()),
        "plain": _temporary,
        "reader": lambda: _reopened(-1),
        "raw": lambda: _reopened(0),
        "large": _large,
        # It has a fileno, and gives out something else than what is in that file.
        "gzip": lambda: gzip.GzipFile(fileobj=_temporary(gzip.compress(CONTENT))),
        "bytesio": lambda: Noted(environ, io.BytesIO(CONTENT)),
        "no fileno": lambda: Noted(environ, io.BytesIO(CONTENT), fileno=False),
        "only read": lambda: OnlyReads(CONTENT),
        "empty": tempfile.TemporaryFile,
        # The kernel makes it as it is read, and gives its size as 0.
        "made": lambda: open("/proc/self/status", "rb"),  # noqa: SIM115
    }[what]()
    if start:
        content.read(int(start))
    headers = [("Content-Type", "text/plain")]
    if length:
        headers.append(("Content-Length", length))
    start_response("200 OK", headers)
    wrap = environ["wsgi.file_wrapper"]
    wrapped = wrap(content) if argument(environ, "arguments") == "1" else wrap(content, 8192)
    return _iterated(wrapped) if argument(environ, "middleware") else wrapped


def _iterated(iterable):
    """A middleware that takes the wrapper for any iterable."""
    try:
        for block in iterable:
            yield block.swapcase()
    finally:
        getattr(iterable, "close", lambda: None)()
