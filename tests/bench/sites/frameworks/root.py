"""Django and Flask in one process: the weight of a site whose imports are worth sharing."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.urls import path
from flask import Flask

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[f"django.contrib.{app}" for app in ("admin", "auth", "contenttypes", "messages", "sessions")],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use",
)
django.setup()
urlpatterns = [path("", lambda request: HttpResponse("Hello, World!\n"))]
of_django, of_flask = WSGIHandler(), Flask(__name__)


@of_flask.get("/flask")
def hello():
    return "Hello, World!\n"


def application(environ, start_response):
    site = of_flask if environ["PATH_INFO"] == "/flask" else of_django
    return site(environ, start_response)
