import hashlib

import falcon


class Hello:
    def on_get(self, request, response, name):
        response.text = f"hello {name} {request.get_param('greeting') or ''}"


class Form:
    def on_post(self, request, response):
        form = request.get_media()
        response.text = f"{form['name']} is {form['age']}"


class Upload:
    def on_post(self, request, response):
        title = file = digest = None
        for part in request.get_media():
            if part.name == "title":
                title = part.text
            else:
                file, digest = part.filename, hashlib.sha256(part.stream.read()).hexdigest()
        response.text = f"{title} {file} {digest}"


application = falcon.App()
for path, resource in (("/hello/{name}", Hello()), ("/form", Form()), ("/upload", Upload())):
    application.add_route(path, resource)
