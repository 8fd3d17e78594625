"""The virtual environments of the tests with real packages, and servers that run in them."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from harness import ROOT, Atrio, build_once

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("ATRIO_TEST_PYTHON", "python3")
"""An interpreter of the ABI that the binary embeds."""


@functools.cache
def build_venv(name):
    """The folder of the environment of requirements/NAME.txt, built once for all test processes."""
    requirements = HERE / "requirements" / f"{name}.txt"
    version = subprocess.check_output([PYTHON, "-c", "import sys; print(sys.version, sys.base_prefix)"])
    key = hashlib.sha256(version + requirements.read_bytes()).hexdigest()[:12]

    def build(folder):
        subprocess.run([PYTHON, "-m", "venv", folder], check=True)
        # Not by the environment's own python: if that is an image's, it is nothing here.
        install = [PYTHON, "-m", "pip", "--python", folder, "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", requirements], check=True)

    return build_once(ROOT / "target/test-venvs" / f"{name}-{key}", build)


@pytest.fixture(scope="session")
def venv():
    """`venv(name)` is the folder of a virtual environment."""
    return build_venv


@pytest.fixture(scope="session")
def serve(venv):
    """`serve(site, environment, **settings)` starts a site, one of this folder or a path, in a virtual environment;
    `judged` puts wsgiref.validate around it."""

    def start(site, environment, judged=False, **settings):
        folder = HERE / "sites" / site
        if judged:
            folder, settings["INNER"] = HERE / "sites/validated", folder / "root.py"
        return Atrio(folder, venv=venv(environment), **settings)

    return start


@pytest.fixture(scope="module", params=(False, True), ids=("plain", "judged"))
def judged(request):
    """The tests that ask for this run a second time, with wsgiref.validate around the site."""
    return request.param
