"""config/kubernetes, as `kubectl kustomize` makes it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from harness import ROOT

FOLDER = ROOT / "config/kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")


def render(folder):
    """The resources of a folder with a kustomization."""
    made = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0 and not made.stderr, made
    return list(yaml.safe_load_all(made.stdout))


def recommended(folder):
    """Those of a kustomization beside it, as its comment recommends one: with everything."""
    shutil.copytree(FOLDER, folder / "config/kubernetes")
    comment = re.findall(r"(?m)^#   (.*)$", (FOLDER / "kustomization.yaml").read_text())
    (folder / "kustomization.yaml").write_text("\n".join(comment))
    return render(folder)


def one(resources, kind):
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def seconds(text):
    """Of a duration with one unit."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


POD = one(render(FOLDER), "Deployment")["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
