import hashlib

from flask import Flask, request

application = Flask(__name__)


@application.get("/hello/<name>")
def hello(name):
    return f"hello {name} {request.args.get('greeting', '')}"


@application.post("/form")
def form():
    return f"{request.form['name']} is {request.form['age']}"


@application.post("/upload")
def upload():
    file = request.files["file"]
    return f"{request.form['title']} {file.filename} {hashlib.file_digest(file.stream, 'sha256').hexdigest()}"
