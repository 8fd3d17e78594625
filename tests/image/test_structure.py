"""What is in the image, and what is not."""

import json
import re
import struct
import subprocess
from pathlib import Path

import pytest

from harness import ROOT
from image.conftest import TARGET

MEGABYTE = 1_000_000
WRITABLE = {"tmp", "var/cache/atrio"}
PROGRAMS = {"atrio", "pip", "pip3", "python", "python3", "python3.13"}
PRESENT = [
    "etc/group",
    "etc/mime.types",
    "etc/nsswitch.conf",
    "etc/os-release",
    "etc/passwd",
    "etc/protocols",
    "etc/services",
    "etc/ssl/certs/ca-certificates.crt",
    "sites",
    "usr/bin/atrio",
    "usr/lib/python3.13/ensurepip/_bundled/pip-25.1.1-py3-none-any.whl",
    "usr/lib/python3.13/os.py",
    "usr/lib/python3.13/__pycache__/os.cpython-313.pyc",
    "usr/lib/{machine}-linux-gnu/libstdc++.so.6",
    "usr/lib/{machine}-linux-gnu/libz.so.1",
    "usr/lib/python3.13/_sysconfigdata__linux_{machine}-linux-gnu.py",
    "usr/share/doc/libc6/copyright",
    "usr/share/zoneinfo/Europe/Rome",
    "var/lib/dpkg/status.d/libc6",
]
ABSENT = [
    r"(.*/)?s?bin/(sh|bash|dash|busybox|zsh|apt|apt-get|dpkg|rpm|apk|perl|gcc|ld|strip)",
    r".*\.(a|la|o|h|deb)",
    r".*/(test|tests|idlelib|tkinter|turtledemo|turtle\.py|lib2to3|config-3.*)(/.*)?",
    r".*/lib-dynload/(_test|_ctypes_test|xx).*",
    r".*/EXTERNALLY-MANAGED",
    r"var/(cache|log)/(?!atrio$).*",
    r"var/lib/apt.*",
    r"root/.+",
    r"tmp/.+",
    r".*/ld\.so\.cache",
]


def test_what_must_be_there_is(image):
    files = image.files()
    missing = [path for path in PRESENT if path.format(machine=image.machine) not in files]
    assert not missing
    assert {path.name for path in map(Path, files) if path.parent == Path("usr/bin")} == PROGRAMS
    assert {files[f"usr/bin/{name}"].linkname for name in PROGRAMS - {"atrio"}} == {"atrio"}


def test_what_must_not_be_there_is_not(image):
    files = image.files()
    found = [path for path in files for pattern in ABSENT if re.fullmatch(pattern, path)]
    assert not found
    assert not [path for path, member in files.items() if member.isdev()]


def test_owners_and_modes(image):
    for path, member in image.files().items():
        owner = (65532, 65532) if path == "var/cache/atrio" else (0, 0)
        assert (member.uid, member.gid) == owner, path
        if path in WRITABLE:
            assert member.mode & 0o7777 == 0o1777, path
        elif not member.issym():
            assert member.mode & 0o7777 in (0o644, 0o755), f"{path}: {member.mode:o}"


def test_sizes(image):
    compressed = sum(layer["size"] for layer in image.manifest["layers"])
    unpacked = sum(member.size for member in image.files().values())
    assert compressed <= 20 * MEGABYTE
    assert unpacked <= 50 * MEGABYTE


def test_how_it_is_started(image):
    config = image.config["config"]
    assert image.config["architecture"] == image.architecture
    assert config["Entrypoint"] == ["/usr/bin/atrio"] and not config.get("Cmd")
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("65532:65532", "/sites", "SIGTERM")
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert "ATRIO_ADMIN_LISTEN=0.0.0.0:9090" in config["Env"]
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/atrio", "healthcheck"]


def test_labels(image):
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in image.config["config"]["Labels"].items()
    }
    version = re.search(r'(?m)^version = "(.*)"', (ROOT / "Cargo.toml").read_text())[1]
    assert set(labels) == {"title", "description", "licenses", "version", "revision", "created"}
    assert (labels["title"], labels["licenses"], labels["version"]) == ("Atrio", "Apache-2.0", version)
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert labels["created"] == image.config["created"]


@pytest.fixture(scope="module")
def unpacked(image, tmp_path_factory):
    folder = tmp_path_factory.mktemp(image.architecture)
    for layer in image.manifest["layers"]:
        subprocess.run(["tar", "-xzf", image.blob(layer), "-C", folder], check=True)
    return folder


def test_every_program_is_for_its_architecture_and_finds_its_libraries(image, unpacked):
    machine = {"amd64": 62, "arm64": 183}[image.architecture]
    programs, needed = set(), {}
    for path in unpacked.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.open("rb").read(4) != b"\x7fELF":
            continue
        programs.add(path.name)
        assert struct.unpack_from("<H", path.read_bytes()[:20], 18) == (machine,), path
        shown = subprocess.check_output(["readelf", "-d", path], text=True)
        needed |= dict.fromkeys(re.findall(r"NEEDED.*\[(.*)\]", shown), path.name)
    assert {"atrio", "libc.so.6"} <= programs
    libraries = unpacked / f"usr/lib/{image.machine}-linux-gnu"
    assert not {
        name: by for name, by in needed.items() if not (libraries / name).exists() and not name.startswith("ld-linux")
    }


def test_the_standard_library_is_compiled_and_its_sources_are_not_looked_at(unpacked):
    compiled = list((unpacked / "usr/lib/python3.13").rglob("*.pyc"))
    assert len(compiled) > 400
    for path in compiled:
        assert struct.unpack_from("<I", path.read_bytes(), 4) == (1,), "not an unchecked hash"


def test_all_times_are_those_of_the_commit(image):
    assert len({member.mtime for member in image.files().values()}) == 1


def test_the_bill_of_materials_is_complete(image):
    (path,) = (TARGET / "sbom").glob(f"*-{image.machine}.cdx.json")
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    purls = [component["purl"] for component in bill["components"]]
    assert len(purls) == len(set(purls)) > 80
    named = {component["name"] for component in bill["components"]}
    packages = re.findall(r"(?m)^([\w.+-]+)", (ROOT / "image/packages.txt").read_text())
    dependencies = re.search(r"(?s)\n\[dependencies\]\n(.*?)\n\[", (ROOT / "Cargo.toml").read_text())[1]
    crates = re.findall(r"(?m)^([\w-]+) =", dependencies)
    assert len(packages) > 15 and len(crates) > 20
    assert {*packages, *crates, "CPython", "pip"} <= named
    assert "pyo3-build-config" not in named, "it only builds"
