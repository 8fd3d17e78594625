"""Writes the bill of materials of the image of an architecture, in CycloneDX 1.5: Debian's packages, crates, pip.
Runs in the builder. usage: image/sbom.py ARCHITECTURE VERSION"""

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

FIELDS = ("Package", "Version", "Architecture", "Homepage", "Maintainer")


def component(kind, name, version, purl, **more):
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl} | more


def debian(package):
    shown = subprocess.check_output(["dpkg-deb", "--field", package, *FIELDS], text=True)
    fields = dict(line.split(": ", 1) for line in shown.splitlines())
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}&distro=debian-13"
    return component("library", name, version, purl, supplier={"name": fields["Maintainer"]})


def crates():
    """The crates that are linked in: what the binary depends on, but for what only builds or tests it."""
    metadata = json.loads(Path("crates.json").read_text())
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, todo = set(), [root]
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if linked and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    for package in sorted(
        (packages[name] for name in found), key=lambda package: (package["name"], package["version"])
    ):
        name, version = package["name"], package["version"]
        licences = [{"expression": package["license"].replace("/", " OR ")}] if package["license"] else []
        yield component("library", name, version, f"pkg:cargo/{name}@{version}", licenses=licences)


def pip(root):
    wheel = next(root.glob("usr/lib/python3.*/ensurepip/_bundled/pip-*.whl"))
    version = wheel.name.split("-")[1]
    return component("library", "pip", version, f"pkg:pypi/pip@{version}")


def main(architecture, version):
    packages = sorted(Path("packages", architecture).glob("*.deb"))
    python = next(debian(p) for p in packages if p.name.startswith("libpython3.13-minimal"))
    components = [
        # Linked in, from libpython3.13-dev of the same version.
        component(
            "framework", "CPython", python["version"].split("-")[0], "pkg:generic/cpython@" + quote(python["version"])
        ),
        *map(debian, packages),
        *crates(),
        pip(Path("root", architecture)),
    ]
    purl = f"pkg:generic/atrio@{version}?arch={architecture}"
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, purl + json.dumps(components)).urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).isoformat(),
            "component": component("container", "atrio", version, purl),
        },
        "components": components,
    }
    json.dump(bill, sys.stdout, indent=1)


main(*sys.argv[1:])
