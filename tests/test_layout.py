"""The layout of src/: imports go down only, `unsafe` stays where it is explained, files stay short."""

import re
from graphlib import TopologicalSorter

import pytest

from harness import ROOT

LAYERS = [
    {"main", "role"},
    {"supervisor", "zygote", "healthcheck", "top"},
    {"worker", "instance"},
    {"http", "wsgi", "python"},
    {"config", "control", "metrics", "os", "exit", "telemetry"},
]
"""From top to bottom. A module may import from its own layer too, as long as that makes no circle."""
WITHOUT_PYTHON = {"supervisor", "http"}
UNSAFE = {"os.rs", "python/interpreter.rs"}
LINES = 400


def sources(src):
    """{path below src: code without comments}."""
    return {str(f.relative_to(src)): re.sub(r"//.*", "", f.read_text()) for f in sorted(src.rglob("*.rs"))}


def module(path):
    return path.partition("/")[0].removesuffix(".rs")


def imports(code):
    """The modules of the crate that some code names: `crate::a::b`, `crate::{a, b::{c, d}}`."""
    found = set(re.findall(r"\bcrate::(\w+)", code))
    for start in (match.end() for match in re.finditer(r"\bcrate::\{", code)):
        depth, group = 1, ""
        for char in code[start:]:
            depth += (char == "{") - (char == "}")
            if depth == 0:
                break
            group += char if depth == 1 else ""
        found |= set(re.findall(r"(?:^|,)\s*(\w+)", group))
    return found


def violations(src):
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    edges, found = {}, []
    for path, code in sources(src).items():
        name = module(path)
        for other in imports(code) - {name}:
            edges.setdefault(name, set()).add(other)
            if name not in rank or other not in rank:
                found.append(f"{path}: {name} and {other} are not both in a layer; see LAYERS in this test")
            elif rank[other] < rank[name]:
                found.append(f"{path}: {name} imports {other}, which is above it")
            elif name in WITHOUT_PYTHON and other in ("python", "wsgi"):
                found.append(f"{path}: {name} must know nothing of {other}")
    return found, edges


def test_imports_go_down_only():
    found, edges = violations(ROOT / "src")
    assert not found
    assert edges["worker"] >= {"http", "wsgi", "python"}, "imports are not seen any more"
    TopologicalSorter(edges).prepare()


def test_every_module_has_its_layer():
    assert {module(path) for path in sources(ROOT / "src")} == set().union(*LAYERS)


def test_unsafe_is_where_it_is_explained():
    assert {path for path, code in sources(ROOT / "src").items() if re.search(r"\bunsafe\b", code)} == UNSAFE


def test_files_are_short():
    long = {str(f): n for f in (ROOT / "src").rglob("*.rs") if (n := len(f.read_text().splitlines())) > LINES}
    assert not long, f"over {LINES} lines: say one thing a file"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("http/job.rs", "use crate::wsgi::call;"),
        ("supervisor/fleet.rs", "let x = crate::python::site::PYTHON_MINOR;"),
        ("supervisor/fleet.rs", "use crate::{config::{A, B}, python};"),
        ("config/load.rs", "use crate::worker;"),
        ("wsgi/call.rs", "fn f() { crate::zygote::run() }"),
        ("novel.rs", "use crate::config;"),
    ],
)
def test_an_import_that_goes_up_is_seen(tmp_path, path, code):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(f"//! crate::main is only named here.\n{code}\n")
    assert len(violations(tmp_path)[0]) == 1
