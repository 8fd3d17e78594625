"""Compiled modules for another Python or machine: one sentence tells which package, what it is for, and what mends it."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from behaviour.packages import wheel
from behaviour.support import refused, site, started_by, write
from harness import Atrio, run

MACHINES = {"x86_64": 62, "aarch64": 183}
HERE = os.uname().machine
OTHER = next(name for name in MACHINES if name != HERE)
FOREIGN = f"cpython-34-{OTHER}-linux-gnu"
OUTSIDE = pytest.mark.binary("libraries and mounts of the image are not on this machine")


def python(code):
    return run("python", "-I", "-c", code).stdout.strip()


@pytest.fixture(scope="module")
def suffix():
    """What modules for the interpreter inside end with."""
    return python("import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])")


@pytest.fixture(scope="module")
def library():
    """A shared object of this machine."""
    return Path(python("import _ctypes; print(_ctypes.__file__)"))


IMPORTS = {
    "absolute": ("import goods", "from goods._core import x", "goods/_core"),
    "relative": ("import goods", "from . import _core", "goods/_core"),
    "wrapped": (
        "import goods",
        "try:\n    from . import _core\nexcept ImportError as e:\n    raise ImportError('read the FAQ') from e",
        "goods/_core",
    ),
    "alone": ("import goods", None, "goods"),
    "package": ("from goods.part import _core", "", "goods/part/_core"),
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_a_module_for_another_python(tmp_path, kind):
    top, code, module = IMPORTS[kind]
    packages = site(tmp_path / "site", top=top) / "site-packages"
    packages.mkdir()
    for folder in [f for f in Path(module).parents if f.name]:
        write(packages / folder, "", "__init__.py")
    if code is not None:
        write(packages / "goods", code, "__init__.py")
    (packages / f"{module}.{FOREIGN}.so").write_bytes(b"")
    remedy = f"atrio pip install --upgrade --target {packages} goods"
    refused(
        sites=tmp_path / "site", says=[f"goods in {packages} was made for Python 3.4 on {OTHER}", "this is", remedy]
    )


def test_the_package_is_called_as_pip_calls_it(tmp_path):
    site(tmp_path / "site", top="import goods")
    folder = tmp_path / "site/site-packages"
    extra = {f"goods/_core.{FOREIGN}.so": "", "better_goods/x.py": ""}
    made = wheel(tmp_path, "better_goods", 1, files=extra | {"goods/__init__.py": "from . import _core"})
    shutil.unpack_archive(made, folder, "zip")
    refused(sites=tmp_path / "site", says=[f"--target {folder} better_goods"])


@OUTSIDE
def test_a_module_of_another_machine_under_a_name_for_this_one(tmp_path, suffix, library):
    packages = site(tmp_path / "site", top="import goods") / "site-packages"
    packages.mkdir()
    content = bytearray(library.read_bytes())
    content[18:20] = struct.pack("<H", MACHINES[OTHER])
    (packages / f"goods{suffix}").write_bytes(content)
    refused(sites=tmp_path / "site", says=[f"was made for {OTHER}", f"on {HERE}", f"--target {packages} goods"])


def test_a_module_of_another_system(tmp_path, suffix):
    packages = site(tmp_path / "site", top="import goods") / "site-packages"
    packages.mkdir()
    (packages / f"goods{suffix}").write_bytes(b"\xcf\xfa\xed\xfe" + bytes(100))
    refused(sites=tmp_path / "site", says=["was made for another system", f"--target {packages} goods"])


def test_a_module_in_a_virtual_environment(tmp_path):
    site(tmp_path / "site", top="import goods")
    venv = tmp_path / "site/.venv"
    assert run("python", "-m", "venv", "--without-pip", venv).returncode == 0
    (next(venv.glob("lib/python*/site-packages")) / f"goods.{FOREIGN}.so").write_bytes(b"")
    refused(
        sites=tmp_path / "site", says=["made for Python 3.4", f"{venv}/bin/python -m pip install --force-reinstall"]
    )


def test_a_library_that_is_missing(tmp_path, suffix):
    packages = site(tmp_path / "site", top="import goods") / "site-packages"
    packages.mkdir()
    compile = ["cc", "-x", "c", "-shared", "-fPIC", "-o"]
    subprocess.run([*compile, tmp_path / "libabsent.so", "-"], input=b"int absent;", check=True)
    link = ["-L", tmp_path, "-Wl,--no-as-needed", "-labsent"]
    subprocess.run([*compile, packages / f"goods{suffix}", "-", *link], input=b"int x;", check=True)
    refused(sites=tmp_path / "site", says=["needs the library libabsent.so", "install it"])


@OUTSIDE
def test_a_cache_that_is_mounted_noexec(tmp_path, suffix, library):
    """As docker's --tmpfs is: what is wrong is not the package."""
    (tmp_path / "cache").mkdir()
    folder = site(tmp_path / "site", "'here'", "import _goods")
    wheel(folder / "wheels", "goods", 1, files={f"_goods{suffix}": library.read_bytes()})
    (folder / "requirements.txt").write_text("goods\n")
    mount = f"mount -t tmpfs -o noexec tmpfs {tmp_path}/cache"
    command = f'{mount} && exec "BINARY" "$@"'
    start = f"#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c '{command}' - \"$@\"\n"
    with started_by(tmp_path, start):
        refused(sites=folder, cache=tmp_path / "cache", says=[f"_goods{suffix}", "noexec", "ATRIO_CACHE"])


def test_what_a_package_can_do_without_is_no_trouble(tmp_path):
    folder = site(tmp_path / "site", "goods.VALUE", "import goods")
    code = "try:\n    from . import _core\nexcept ImportError:\n    VALUE = 'slow'\n"
    (write(folder / "site-packages/goods", code, "__init__.py") / f"_core.{FOREIGN}.so").write_bytes(b"")
    with Atrio(folder) as server:
        assert server.get().text == '"slow"'
