"""The applications that site.ini names."""

import os

from paste.fileapp import DirectoryApp


def hello(settings, greeting):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{greeting} at {environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    return application


def files(settings):
    return DirectoryApp(os.environ["FILES"])


def broken(settings):
    def application(environ, start_response):
        guests = 41
        raise LookupError(f"no chair for guest {guests + 1}")

    return application


def encoded(settings):
    """Paste's interpreter answers with str, which no server of Python 3 may accept."""

    def wrap(application):
        def wrapped(environ, start_response):
            return [b if isinstance(b, bytes) else b.encode() for b in application(environ, start_response)]

        return wrapped

    return wrap
