"""Where a site's packages come from."""

import shutil

import pytest

from behaviour.support import answer, refused, site, write
from harness import Atrio, run


def package(folder, name, value):
    return write(folder, f"VALUE = {value!r}", f"{name}.py")


def venv(folder):
    result = run("python", "-m", "venv", "--without-pip", folder)
    assert result.returncode == 0, result
    return next(folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def made_venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "venv"
    package(venv(folder), "goods", "venv")
    return folder


VALUE = "[goods.VALUE, sys.prefix, sys.prefix != sys.base_prefix, sys.executable]"


def test_a_venv_beside_the_script_is_found(tmp_path, made_venv):
    shutil.copytree(made_venv, tmp_path / "site/.venv", symlinks=True)
    with Atrio(site(tmp_path / "site", VALUE, "import goods")) as server:
        assert answer(server)[:3] == ["venv", str(tmp_path / "site/.venv"), True]


@pytest.mark.parametrize("relative", [False, True])
def test_a_venv_can_be_named(tmp_path, made_venv, relative):
    (tmp_path / "venv").symlink_to(made_venv)
    named = "../venv" if relative else made_venv
    with Atrio(site(tmp_path / "site", VALUE, "import goods"), venv=named) as server:
        value, prefix, is_venv, _ = answer(server)
    assert (value, is_venv) == ("venv", True)
    assert prefix.endswith("/venv")


@pytest.mark.parametrize("child", ["sys.executable, '-c'", "sys.executable, '-I', '-c'"])
def test_a_program_that_the_site_starts_has_the_venv_too(tmp_path, made_venv, child):
    code = "import goods, sys; print(goods.VALUE, sys.prefix)"
    value = f"subprocess.check_output([{child}, {code!r}], text=True)"
    with Atrio(site(tmp_path, value, "import subprocess"), venv=made_venv) as server:
        assert answer(server).split() == ["venv", str(made_venv)]


def test_site_packages_beside_the_script_are_found_with_their_pth_files(tmp_path):
    folder = site(tmp_path / "site", "[goods.VALUE, more.VALUE]", "import goods, more")
    package(folder / "site-packages", "goods", "beside")
    package(tmp_path / "more", "more", "by pth")
    (folder / "site-packages/more.pth").write_text(f"{tmp_path}/more\n")
    with Atrio(folder) as server:
        assert answer(server) == ["beside", "by pth"]


def test_the_order_is_site_then_setting_then_variable_then_library_then_packages(tmp_path):
    names = ("a", "b", "c", "d")
    values = "[a.VALUE, b.VALUE, c.VALUE, d.VALUE, hasattr(this, 'VALUE')]"
    folder = site(tmp_path / "site", values, "import a, b, c, d, this")
    package(folder, "a", "site")
    for where in ("set1", "set2", "variable", "site/site-packages"):
        for name in names:
            package(tmp_path / where, name, where)
    (tmp_path / "set1/d.py").unlink()
    (tmp_path / "set1/c.py").unlink()
    (tmp_path / "set2/d.py").unlink()
    package(folder / "site-packages", "this", "site/site-packages")
    with Atrio(folder, python_path=f"../set1,{tmp_path}/set2", PYTHONPATH=tmp_path / "variable") as server:
        assert answer(server) == ["site", "set1", "set2", "variable", False]


def test_pythonpath_counts(tmp_path):
    package(tmp_path / "variable", "goods", "variable")
    with Atrio(site(tmp_path / "site", "goods.VALUE", "import goods"), PYTHONPATH=tmp_path / "variable") as server:
        assert answer(server) == "variable"


def test_pythonhome_does_not_count(tmp_path):
    with Atrio(site(tmp_path), PYTHONHOME="/nonexistent") as server:
        assert answer(server) == "here"


def test_a_venv_that_is_none_is_refused(tmp_path):
    site(tmp_path / "site")
    refused(sites=tmp_path / "site", venv="/nonexistent", says=["/nonexistent", "pyvenv.cfg", "atrio python -m venv"])
    (tmp_path / "site/.venv").mkdir()
    refused(sites=tmp_path / "site", says=[".venv", "pyvenv.cfg", "atrio python -m venv"])


def test_a_venv_of_another_version_is_refused(tmp_path):
    site(tmp_path / "site")
    (tmp_path / "site/.venv/lib/python3.4/site-packages").mkdir(parents=True)
    (tmp_path / "site/.venv/pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.4.0\n")
    refused(sites=tmp_path / "site", says=[f"{tmp_path}/site/.venv", "another Python", "atrio python -m venv --clear"])
