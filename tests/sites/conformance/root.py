"""The site of the conformance tests: the first segment of the path names a behaviour; anything else shows the environ."""

from behaviours import BEHAVIOURS, close, environment, errors, file, headers, response, wsgi_input  # noqa: F401


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/").split("/")[0]
    return BEHAVIOURS.get(name, environment.environment)(environ, start_response)
