"""Applications that fail, and that speak to the log."""

from . import answer, argument, behaviour

ERRORS = {
    e.__name__: e
    for e in (RuntimeError, SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit, StopIteration, BaseException)
}


@behaviour
def fail(environ, start_response):
    """Raises `error` (its message is the key) when called, after start_response, at first next() or mid-stream."""

    def blocks(*first):
        yield from first
        fail_deliberately()

    def fail_deliberately():
        raise ERRORS[argument(environ, "error", "RuntimeError")](argument(environ, "key"))

    headers = [("Content-Type", "text/plain")]
    when = argument(environ, "when", "called")
    if when == "called":
        fail_deliberately()
    if when == "mid-stream with a length":
        headers.append(("Content-Length", "100"))
    start_response("200 OK", headers)
    if when == "started":
        fail_deliberately()
    return blocks(*{"first next": [], "after an empty block": [b""]}.get(when, [b"first"]))


@behaviour
def speak(environ, start_response):
    """Writes three lines that hold the key to wsgi.errors."""
    key, errors = argument(environ, "key"), environ["wsgi.errors"]
    errors.write(f"{key}-written\n")
    errors.writelines([f"{key}-first of ", "several\n", f"{key}-caf\xe9 \u20ac\n"])
    errors.flush()
    return answer(start_response, b"spoken")
