"""The core of the conformance tests on arm64, emulated. What measures time is left out: an emulated program has another."""

import os
import subprocess
import sys

import pytest

from harness import ROOT
from image.conftest import Image

CORE = ["close", "environ", "errors", "file_wrapper", "headers", "http", "input", "malformed", "response"]


@pytest.fixture
def arm64():
    image = Image("arm64")
    image.load()
    return image


def test_the_core_of_the_conformance_tests_passes(arm64):
    if arm64.native:
        pytest.skip("this machine is an arm64: the whole suite runs on the image")
    tests = [str(ROOT / f"tests/conformance/test_{name}.py") for name in CORE]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(ROOT / "tests/pytest.ini"),
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
        "-q",
    ]
    command += ["--import-mode=importlib", "--strict-markers", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"ATRIO_TEST_IMAGE": arm64.name, "ATRIO_TEST_OPTIONS": "--platform=linux/arm64"}
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert int(result.stdout.rsplit(" passed", 1)[0].split()[-1]) > 500
