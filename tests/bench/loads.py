"""What clients ask of a server."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Load:
    what: str
    """As tables name it."""
    path: str
    connections: int
    answer: int
    """Bytes of the response's body."""
    upload: int = 0
    """Bytes of the request's body; 0: a GET."""
    close: bool = False
    """Every request comes on a connection of its own."""


def hello(connections):
    return Load(f"hello, {connections} connection{'s' * (connections > 1)}", "/", connections, answer=14)


def response(size, connections):
    return Load(f"{in_words(size)} body", f"/body?{size}", connections, answer=size)


def upload(size, connections):
    return Load(f"upload of {in_words(size)}", "/upload", connections, answer=len(str(size)), upload=size)


def in_words(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


LOADS = {
    "hello": hello(64),
    "hello-1": hello(1),
    "hello-1000": hello(1000),
    "json": Load("8 KiB of JSON", "/json", 64, answer=8466),
    "io": Load("10 ms of sleep", "/io", 64, answer=14),
    "upload": upload(64 * 1024, 32),
    "stream": Load("stream of 64 × 16 KiB", "/stream", 16, answer=MIB),
    "big": response(MIB, 16),
    "close": Load("a connection per request", "/", 64, answer=14, close=True),
}
CPU = Load("a path that computes", "/cpu", 32, answer=14)
"""For what more workers gain."""
FRAMEWORKS = [Load(name, path, 64, answer=14, close=True) for name, path in (("Django", "/"), ("Flask", "/flask"))]
"""Those of sites/frameworks. With connections that stay, one worker may get them all, and the others stay small."""
CONNECTIONS = [hello(number) for number in (1, 4, 16, 64, 256, 1000)]
SIZES = [1024 * 4**step for step in range(8)]
"""1 KiB … 16 MiB."""
# On few connections: what wrk leaves unfinished at the end has cost, and does not count.
RESPONSES = [response(size, connections=4) for size in SIZES]
UPLOADS = [upload(size, connections=4) for size in SIZES]
