"""Completes an OCI layout that buildah has written. usage: image/layout.py FOLDER DOCKERFILE ANNOTATION=VALUE…

OCI's specification has no HEALTHCHECK, so that buildah drops it where BuildKit keeps it, and Docker reads it. Its history names
what this machine's cache had, and when that was made: what does not follow from the commit is taken out. The annotations are for
the index, where registries look for them.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

SECOND = 1_000_000_000
"""In nanoseconds, Docker's unit."""


class Layout:
    def __init__(self, folder):
        self.folder = folder

    def path(self, digest):
        return self.folder / "blobs" / digest.replace(":", "/")

    def read(self, descriptor):
        return json.loads(self.path(descriptor["digest"]).read_bytes())

    def replace(self, descriptor, content):
        """Puts `content` in the place of the blob that is described; the descriptor follows."""
        self.path(descriptor["digest"]).unlink(missing_ok=True)
        data = json.dumps(content, separators=(",", ":")).encode()
        descriptor |= {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
        self.path(descriptor["digest"]).write_bytes(data)


def healthcheck(dockerfile):
    """The HEALTHCHECK of a Dockerfile, as Docker's configuration has it."""
    options, command = re.search(r"(?m)^HEALTHCHECK (.*)CMD (\[.*\])$", dockerfile).groups()
    times = re.findall(r"--([a-z-]+)=(\d+)s", options)
    names = {name: name.title().replace("-", "") for name, _ in times}
    return {"Test": ["CMD", *json.loads(command)]} | {names[name]: int(value) * SECOND for name, value in times}


def without_cache(image):
    """The history of an image, without what tells of the cache that it was built with."""
    return [
        {k: v for k, v in step.items() if k != "comment"} | {"created": image["created"]} for step in image["history"]
    ]


def main(folder, dockerfile, *annotations):
    layout = Layout(Path(folder))
    check = healthcheck(Path(dockerfile).read_text())
    top = json.loads((layout.folder / "index.json").read_text())
    (described,) = top["manifests"]
    index = layout.read(described)
    for manifest in index["manifests"]:
        content = layout.read(manifest)
        image = layout.read(content["config"])
        image["config"]["Healthcheck"] = check
        image["history"] = without_cache(image)
        layout.replace(content["config"], image)
        layout.replace(manifest, content)
    # They come in the order in which their builds ended.
    index["manifests"].sort(key=lambda manifest: manifest["platform"]["architecture"])
    index["annotations"] = dict(annotation.split("=", 1) for annotation in annotations)
    layout.replace(described, index)
    (layout.folder / "index.json").write_text(json.dumps(top))


main(*sys.argv[1:])
