"""Another site, whose root.py is INNER, with the judge of the standard library around it."""

import importlib.util
import os
import sys
from wsgiref.validate import InputWrapper, validator

sys.path.insert(0, os.path.dirname(os.environ["INNER"]))
spec = importlib.util.spec_from_file_location("inner", os.environ["INNER"])
inner = sys.modules["inner"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inner)


class Input(InputWrapper):
    """The judge demands a size of every read(), which PEP 3333 and werkzeug do not."""

    def read(self, size=-1):
        return super().read(size)


def accused(environ, start_response):
    environ["wsgi.input"] = Input(environ["wsgi.input"])
    return inner.application(environ, start_response)


application = validator(accused)
