import hashlib

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], FORM_RENDERER="", DATABASES={}, USE_TZ=True
)


def hello(request, name):
    return HttpResponse(f"hello {name} {request.GET.get('greeting', '')}")


def form(request):
    return HttpResponse(f"{request.POST['name']} is {request.POST['age']}")


def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return HttpResponse(f"{request.POST['title']} {file.name} {digest.hexdigest()}")


urlpatterns = [path("hello/<name>", hello), path("form", form), path("upload", upload)]
application = get_wsgi_application()
