"""Statuses and response headers, most of them wrong."""

from . import argument, behaviour

PLAIN = ("Content-Type", "text/plain")
HEADS = {
    "duplicates": (
        "200 OK",
        [("Set-Cookie", "a=1"), PLAIN, ("set-cookie", "b=2"), ("X-A", "x"), ("Set-Cookie", "c=3")],
    ),
    "custom status": ("299 Sehr gut, danke", [PLAIN]),
    "teapot": ("418 I'm a teapot", [PLAIN]),
    "latin-1": ("200 OK", [PLAIN, ("X-Latin", "caf\xe9 \xff")]),
    "own date and server": ("200 OK", [("Date", "Tue, 01 Jan 2019 00:00:00 GMT"), ("Server", "mine"), PLAIN]),
    # Injection
    "crlf": ("200 OK", [PLAIN, ("X-A", "a\r\nInjected: yes")]),
    "crlf twice": ("200 OK", [PLAIN, ("X-A", "a\r\n\r\nInjected")]),
    "lf": ("200 OK", [PLAIN, ("X-A", "a\nInjected: yes")]),
    "cr": ("200 OK", [PLAIN, ("X-A", "a\rInjected: yes")]),
    "nul": ("200 OK", [PLAIN, ("X-A", "a\0Injected: yes")]),
    "name": ("200 OK", [PLAIN, ("X-A: a\r\nInjected", "yes")]),
    "namecolon": ("200 OK", [PLAIN, ("Injected: yes, X-A", "a")]),
    "statuscrlf": ("200 OK\r\nInjected: yes", [PLAIN]),
    "statuslf": ("200 OK\nInjected: yes", [PLAIN]),
    # Wrong
    "namesp": ("200 OK", [PLAIN, ("X A", "a")]),
    "nametrailingsp": ("200 OK", [PLAIN, ("X-A ", "a")]),
    "emptyname": ("200 OK", [PLAIN, ("", "a")]),
    "bytes": ("200 OK", [PLAIN, ("X-A", b"a")]),
    "bytesname": ("200 OK", [PLAIN, (b"X-A", "a")]),
    "int": ("200 OK", [PLAIN, ("X-A", 1)]),
    "nonlatin1": ("200 OK", [PLAIN, ("X-A", "\u20ac")]),
    "nonlatin1status": ("200 \u20ac", [PLAIN]),
    "tuple": ("200 OK", (PLAIN, ("X-A", "a"))),
    "listitem": ("200 OK", [PLAIN, ["X-A", "a"]]),
    "threetuple": ("200 OK", [PLAIN, ("X-A", "a", "b")]),
    "none": ("200 OK", None),
    "status0": ("0 Zero", [PLAIN]),
    "status000": ("000 Zero", [PLAIN]),
    "status100": ("100 Continue", [PLAIN]),
    "status101": ("101 Switching Protocols", [PLAIN]),
    "statusbad": ("OK", [PLAIN]),
    "statusempty": ("", [PLAIN]),
    "statuslong": ("2000 OK", [PLAIN]),
    "statusint": (200, [PLAIN]),
    "statusbytes": (b"200 OK", [PLAIN]),
    "clbad": ("200 OK", [PLAIN, ("Content-Length", "abc")]),
    "clnegative": ("200 OK", [PLAIN, ("Content-Length", "-4")]),
    "clplus": ("200 OK", [PLAIN, ("Content-Length", "+4")]),
    "cltwo": ("200 OK", [PLAIN, ("Content-Length", "4"), ("Content-Length", "3")]),
    # Hop-by-hop
    "Connection": ("200 OK", [PLAIN, ("Connection", "x-hop")]),
    "Transfer-Encoding": ("200 OK", [PLAIN, ("Transfer-Encoding", "chunked")]),
    "Keep-Alive": ("200 OK", [PLAIN, ("Keep-Alive", "timeout=99")]),
    "Upgrade": ("200 OK", [PLAIN, ("Upgrade", "websocket")]),
}


@behaviour
def head(environ, start_response):
    status, headers = HEADS[argument(environ, "case")]
    start_response(status, headers)
    return [b"body"]


@behaviour
def no_exc_info(environ, start_response):
    start_response("200 OK", [PLAIN], None)
    return [b"body"]


@behaviour
def changed_afterwards(environ, start_response):
    headers = [PLAIN, ("X-Before", "yes")]
    start_response("200 OK", headers)
    headers[:] = [("X-After", "yes")]
    return iter([b"body"])
