"""The site that `make run` serves: what a request brings along, and a form, an upload and a stream to try.

Nothing but the standard library. A site of your own takes this file's place: all it needs is the name `application`.
"""

import os
import sys
import time
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
HTML = "text/html; charset=utf-8"
BLOCK = 64 * 1024


def application(environ, start_response):
    view = VIEWS.get((environ["REQUEST_METHOD"].replace("HEAD", "GET"), environ["PATH_INFO"]), not_found)
    status, body = view(environ)
    start_response(status, [("Content-Type", HTML)])
    return body


def page(title, body, status="200 OK"):
    return status, [PAGE.substitute(title=escape(title), body=body).encode()]


def not_found(environ):
    return page("Not here", f"<p>There is no <code>{escape(text(environ['PATH_INFO']))}</code>.</p>", "404 Not Found")


def index(environ):
    served = f"Python {sys.version.split()[0]} in process {os.getpid()}"
    return page(
        "It works",
        f"""
        <p>Atrio serves this page with {escape(served)}, for <code>{escape(environ["REMOTE_ADDR"])}</code>.</p>
        <h2>A site of your own</h2>
        <p>A site is a folder with a <code>root.py</code> that declares an <code>application</code>. Put this into
        <code>{escape(__file__)}</code>:</p>
        <pre><code>def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello"]</code></pre>
        <p>and let Atrio import it anew with <code>kill -HUP</code> and the number of its process. Flask, Django, Pyramid
        and GenroPy make an <code>application</code> too; the README shows how.</p>""",
    )


def environment(environ):
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value if isinstance(value, str) else repr(value))}</td></tr>'
        for key, value in sorted(environ.items())
    )
    return page(
        "What a request brings along",
        f"<table><caption>The <code>environ</code> of this request</caption><tbody>{rows}</tbody></table>",
    )


def form(environ):
    given = parse_qs(environ["wsgi.input"].read().decode("utf-8", "replace"))
    name = given.get("name", [""])[0].strip()
    greeting = f'<p role="status">Good day, <strong>{escape(name)}</strong>.</p>' if name else ""
    return page(
        "A form",
        f"""{greeting}
        <form method="post">
          <label for="name">Your name</label>
          <input id="name" name="name" autocomplete="name" required value="{escape(name)}">
          <button>Send</button>
        </form>""",
    )


def upload(environ):
    received = ""
    if environ["REQUEST_METHOD"] == "POST":
        size = sum(map(len, iter(lambda: environ["wsgi.input"].read(BLOCK), b"")))
        received = f'<p role="status">The body of the request had <strong>{size}</strong> bytes.</p>'
    return page(
        "An upload",
        f"""{received}
        <form method="post" enctype="multipart/form-data">
          <label for="file">A file, which is counted and forgotten</label>
          <input id="file" name="file" type="file" required>
          <button>Upload</button>
        </form>""",
    )


def stream(environ):
    body = "<p>One line each fifth of a second:</p><ol>\0</ol>"
    before, after = PAGE.substitute(title="A stream", body=body).split("\0")

    def blocks():
        yield before.encode()
        for number in range(1, 11):
            yield f"<li>sent at {time.strftime('%H:%M:%S')}, block {number}</li>\n".encode()
            time.sleep(0.2)
        yield after.encode()

    return "200 OK", blocks()


def text(native):
    """What the bytes of a native string of WSGI say in UTF-8."""
    return native.encode("latin-1").decode("utf-8", "replace")


VIEWS = {
    ("GET", "/"): index,
    ("GET", "/environ"): environment,
    ("GET", "/form"): form,
    ("POST", "/form"): form,
    ("GET", "/upload"): upload,
    ("POST", "/upload"): upload,
    ("GET", "/stream"): stream,
}
