"""Packages made on the spot: wheels, and a source whose build waits for leave."""

import base64
import hashlib
import zipfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

BACKEND = '''
"""A build backend that tells it has begun, and waits for leave to go on."""
import pathlib, sys, time
sys.path.insert(0, {tests!r})
from behaviour.packages import wheel

def build_wheel(folder, settings=None, metadata=None):
    gate = pathlib.Path({gate!r})
    (gate / "begun").touch()
    while not (gate / "go").exists():
        time.sleep(0.01)
    return wheel(pathlib.Path(folder), {name!r}, {value!r}).name
'''


def wheel(folder, name, value, version="1.0", tag="py3-none-any", files=()):
    """A wheel of a package `name` with `VALUE = value`, and more files {path: content}."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {f"{name}/__init__.py": f"VALUE = {value!r}\n"} | dict(files)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = ""
    for path, text in content.items():
        data = text if isinstance(text, bytes) else text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in content.items():
            archive.writestr(inner, text)
    return path


def slow_source(folder, gate, name, value):
    """A source package whose build makes `begun` in the folder `gate`, and ends once `go` is there."""
    folder.mkdir(parents=True)
    gate.mkdir(exist_ok=True)
    system = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]'
    (folder / "pyproject.toml").write_text(f'[build-system]\n{system}\n[project]\nname = "{name}"\nversion = "1.0"\n')
    (folder / "backend.py").write_text(BACKEND.format(tests=str(TESTS), gate=str(gate), name=name, value=value))
