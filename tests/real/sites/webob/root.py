"""What WebOb makes of a request, as JSON; FILE of the environment is a file to send."""

import hashlib
import os

from webob import Request, Response
from webob.dec import wsgify
from webob.static import FileApp


@wsgify
def application(request):
    match request.path_info_pop():
        case "file":
            return FileApp(os.environ["FILE"])
        case "form":
            file = request.POST["file"]
            return Response(json={"title": request.POST["title"], "name": file.filename, "size": len(file.file.read())})
        case "body":
            request.make_body_seekable()
            return Response(json={"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})
        case "lines":
            return Response(json=[line.decode() for line in request.body_file])
        case "cookies":
            response = Response(json=dict(request.cookies))
            response.set_cookie("first", "1")
            response.set_cookie("second", "zwei")
            return response
        case "inner":
            inner = Request.blank("/about?from=inner", headers={"Cookie": "a=b"})
            return inner.get_response(application)
        case "etag":
            return Response("the text", conditional_response=True, etag="a-tag")
        case "stream":
            return Response(app_iter=(f"block {i}\n".encode() for i in range(3)), content_type="text/plain")
    about = {
        name: getattr(request, name) for name in ("method", "host", "script_name", "path_info", "url", "client_addr")
    }
    return Response(json=about | {"query": dict(request.GET), "cookies": dict(request.cookies)})
