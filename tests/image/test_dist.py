"""The archives for hosts without Docker. They run where the image's C library is, and find nothing else of it."""

import re
import subprocess

import pytest

from harness import ROOT
from image.conftest import TARGET

C_LIBRARY = re.compile(r"(lib(c|m|dl|rt|pthread|util|resolv|anl)|ld-linux.*)\.so\.\d+")
PLACE = "/opt/else/where"


@pytest.fixture(scope="module")
def archive(image, tmp_path_factory):
    """The unpacked folder."""
    (path,) = (TARGET / "dist").glob(f"atrio-*-{image.machine}.tar.zst")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["tar", "--zstd", "-xf", path, "-C", folder], check=True)
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    (found,) = folder.iterdir()
    return found


def programs(archive):
    for path in archive.rglob("*"):
        if not path.is_symlink() and path.is_file() and path.open("rb").read(4) == b"\x7fELF":
            yield path


def test_it_has_what_a_host_needs(archive):
    for name in (
        "bin/atrio",
        "lib/python3.13/os.py",
        "systemd/atrio.service",
        "systemd/atrio.socket",
        "LICENSE",
        "README.md",
    ):
        assert (archive / name).is_file()
    service = (archive / "systemd/atrio.service").read_text()
    assert "/opt/atrio/bin/atrio" in service and "Requires=atrio.socket" in service


def test_its_libraries_come_along_but_for_the_c_library(archive):
    found = list(programs(archive))
    assert len(found) > 30
    for path in found:
        shown = subprocess.check_output(["readelf", "-d", path], text=True)
        for name in re.findall(r"NEEDED.*\[(.*)\]", shown):
            assert C_LIBRARY.fullmatch(name) or (archive / "lib" / name).is_file(), f"{path} needs {name}"


def test_the_c_library_that_it_needs_is_the_one_that_the_readme_names(archive):
    needed = set()
    for path in programs(archive):
        shown = subprocess.check_output(["readelf", "-V", path], text=True)
        needed |= {tuple(map(int, v)) for v in re.findall(r"Name: GLIBC_(\d+)\.(\d+)  Flags: none", shown)}
    major, minor = max(needed)
    assert f"glibc {major}.{minor}" in (ROOT / "README.md").read_text()


WORKS = """
import bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl, sys, uuid, zlib
for module in (sqlite3, ssl, ctypes):
    name = sys.modules[f"_{module.__name__}"].__file__
    assert name.startswith(sys.prefix), name
maps = open("/proc/self/maps").read()
assert f"{sys.prefix}/lib/libcrypto.so.3" in maps and f"{sys.prefix}/lib/libsqlite3.so.0" in maps
assert "/usr/lib/python" not in maps + "".join(sys.path), sys.path
print(sys.prefix, sys.executable)
"""


def test_it_works_wherever_it_is_unpacked(image, archive):
    options = [
        "--volume",
        f"{archive}:{PLACE}:ro",
        "--entrypoint",
        f"{PLACE}/bin/atrio",
        "--read-only",
        "--tmpfs",
        "/tmp",
    ]
    assert image.run("python", "-c", WORKS, options=options).stdout == f"{PLACE} {PLACE}/bin/atrio\n"
    assert image.run("pip", "--version", options=options).stdout.startswith(f"pip 25.1.1 from {PLACE}/lib/")
    with image.container(*options, sites=ROOT / "sites") as container:
        assert container.ready().get().status == 200


def test_without_its_library_it_says_so(image, archive):
    options = ["--volume", f"{archive}/bin/atrio:{PLACE}/bin/atrio:ro", "--entrypoint", f"{PLACE}/bin/atrio"]
    result = image.run("python", "-c", "pass", options=options, check=False)
    assert result.returncode == 70
    assert f"its standard library is not in {PLACE}/lib/python3.13" in result.stderr and result.stderr.count("\n") == 1
