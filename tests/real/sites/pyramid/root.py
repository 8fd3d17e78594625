import hashlib

from pyramid.config import Configurator
from pyramid.response import Response


def hello(request):
    return Response(f"hello {request.matchdict['name']} {request.GET.get('greeting', '')}")


def form(request):
    return Response(f"{request.POST['name']} is {request.POST['age']}")


def upload(request):
    file = request.POST["file"]
    digest = hashlib.sha256(file.file.read()).hexdigest()
    return Response(f"{request.POST['title']} {file.filename} {digest}")


with Configurator() as config:
    for view, pattern in ((hello, "/hello/{name}"), (form, "/form"), (upload, "/upload")):
        config.add_route(view.__name__, pattern)
        config.add_view(view, route_name=view.__name__)
    application = config.make_wsgi_app()
