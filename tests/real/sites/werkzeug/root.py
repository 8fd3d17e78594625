"""A site with errors behind werkzeug's debugger; FILE of the environment is a file to send."""

import hashlib
import os

from werkzeug.debug import DebuggedApplication
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response


def broken():
    guests = 41
    raise LookupError(f"no chair for guest {guests + 1}")


def stream():
    yield b"the first block"
    yield broken()


@Request.application
def site(request):
    match request.path:
        case "/broken":
            broken()
        case "/stream":
            return Response(stream())
        case "/digest":
            return Response(f"{len(request.get_data())} {hashlib.sha256(request.get_data()).hexdigest()}")
        case "/form":
            return Response(f"{request.form['title']} {request.files['file'].read().decode()}")
        case "/file":
            return send_file(os.environ["FILE"], request.environ, conditional=True)
    return Response("hello")


application = DebuggedApplication(site, evalex=True, console_path="/console")
application.trusted_hosts.append("test")
