"""requirements.txt beside the script: installed once, before the site is imported."""

import os
import shutil
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from behaviour.packages import slow_source, wheel
from behaviour.support import answer, gone, records, refused, site, started_by, without_privilege, write
from behaviour.test_config import free_port
from harness import Atrio, eventually, run

NOWHERE = "http://127.0.0.1:9/simple"
"""An index that does not answer."""
OFFLINE = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "1", "PIP_FIND_LINKS": None, "PIP_CONFIG_FILE": os.devnull}
FOREIGN = "cp34-cp34-linux_mips"
OUTSIDE = pytest.mark.binary("mounts, signals and namespaces of this machine are not those of a container")


def needs(folder, *lines, value="goods.VALUE", top="import goods"):
    """A site with a requirements.txt."""
    site(folder, value, top)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def shop(tmp_path):
    """A site that needs the package `goods`, and has a wheel of it."""
    wheel(tmp_path / "shop/wheels", "goods", "installed")
    return needs(tmp_path / "shop", "goods")


@pytest.fixture
def given(tmp_path):
    """No network, and a cache of its own."""
    return OFFLINE | {"cache": tmp_path / "cache"}


def sets(tmp_path):
    """What is in the cache of the only site."""
    return sorted(p.name for p in tmp_path.glob("cache/packages/*/*") if p.name != "lock")


def messages(server):
    return [record["message"] for record in records(server.log())]


def test_wheels_beside_the_file_are_installed_once_and_without_network(shop, tmp_path, given):
    with Atrio(shop, **given) as server:
        assert answer(server) == "installed"
        said = messages(server)
    (begun,) = [line for line in said if line.startswith("installing ")]
    assert "requirements.txt" in begun and begun.endswith(f"from {shop}/wheels alone")
    assert any(line.startswith("Successfully installed goods") for line in said), "pip's progress is in the log"
    shutil.rmtree(shop / "wheels")
    with Atrio(shop, **given) as server:
        assert answer(server) == "installed"
        assert not [line for line in messages(server) if "nstall" in line]
    assert len(sets(tmp_path)) == 1


def test_a_package_of_the_index_is_installed_with_its_compiled_module(tmp_path):
    value = "[markupsafe._speedups.__name__, str(markupsafe.escape('<'))]"
    folder = needs(tmp_path / "shop", "markupsafe==3.0.2", value=value, top="import markupsafe, markupsafe._speedups")
    with Atrio(folder, cache=tmp_path / "cache") as server:
        assert answer(server) == ["markupsafe._speedups", "&lt;"]
    with Atrio(folder, **OFFLINE, cache=tmp_path / "cache") as server:
        assert answer(server) == ["markupsafe._speedups", "&lt;"]


def test_installed_packages_stand_behind_the_library_and_before_others_with_their_pth_files(tmp_path, given):
    more = {"more.pth": f"{tmp_path}/more\n", "this.py": "VALUE = 1\n", "pip/__init__.py": "VALUE = 'ours'\n"}
    wheel(tmp_path / "shop/wheels", "goods", "installed", files=more)
    write(tmp_path / "more", "VALUE = 'by pth'", "more.py")
    value = "[goods.VALUE, more.VALUE, pip.VALUE, hasattr(this, 'VALUE')]"
    folder = needs(tmp_path / "shop", "goods", value=value, top="import goods, more, pip, this")
    with Atrio(folder, **given) as server:
        assert answer(server) == ["installed", "by pth", "ours", False]


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_every_worker_has_the_packages(shop, given, preload):
    with Atrio(shop, workers=2, preload=preload, **given) as server:
        assert {answer(server) for _ in range(8)} == {"installed"}


def test_a_change_of_an_included_file_is_a_new_set_and_the_last_two_stay(shop, tmp_path, given):
    (shop / "requirements.txt").write_text("-r base.txt\n")
    seen = []
    for number in range(4):
        (shop / "base.txt").write_text(f"goods  # {number}\n")
        with Atrio(shop, **given) as server:
            assert answer(server) == "installed"
        seen.append(set(sets(tmp_path)))
    assert [len(found) for found in seen] == [1, 2, 2, 2]
    assert len(set.union(*seen)) == 4


def test_a_set_in_use_is_not_removed(shop, tmp_path, given):
    with Atrio(shop, **given):
        (used,) = sets(tmp_path)
        for number in range(3):
            (shop / "requirements.txt").write_text(f"goods  # {number}\n")
            with Atrio(shop, **given):
                pass
        assert used in sets(tmp_path) and len(sets(tmp_path)) == 3


@pytest.mark.parametrize("own", [".venv", "site-packages", "ATRIO_VENV"])
def test_a_site_that_brings_its_packages_is_left_alone_unless_told(shop, tmp_path, given, own):
    if own == "site-packages":
        write(shop / "site-packages", "VALUE = 'beside'", "goods.py")
    else:
        venv = tmp_path / "venv" if own == "ATRIO_VENV" else shop / own
        assert run("python", "-m", "venv", "--without-pip", venv).returncode == 0
        write(next(venv.glob("lib/python*/site-packages")), "VALUE = 'beside'", "goods.py")
        given |= {"venv": venv} if own == "ATRIO_VENV" else {}
    with Atrio(shop, **given) as server:
        assert answer(server) == "beside"
        (said,) = [line for line in messages(server) if "requirements.txt" in line]
        assert own in said and "not installed" in said
    with Atrio(shop, requirements="requirements.txt", **given) as server:
        assert answer(server) == ("beside" if own == "site-packages" else "installed")
        assert [line for line in messages(server) if line.startswith("installing ")]


def test_off_installs_nothing(shop, tmp_path, given):
    refused(sites=shop, requirements="off", says=["No module named 'goods'"], **given)
    assert not (tmp_path / "cache").exists()


def test_another_file_can_be_named(shop, tmp_path, given):
    (shop / "requirements.txt").rename(shop / "production.txt")
    with Atrio(shop, requirements="production.txt", **given) as server:
        assert answer(server) == "installed"
    refused(sites=shop, requirements="absent.txt", says=["ATRIO_REQUIREMENTS", f"{shop}/absent.txt"], **given)


def test_a_file_without_requirements_is_no_trouble(tmp_path, given):
    folder = needs(tmp_path / "shop", "# nothing yet", value="'here'", top="")
    with Atrio(folder, **given) as server:
        assert answer(server) == "here"


def fails(tmp_path, folder, *says, code=78, **given):
    """It ends at once, with one sentence, and leaves no packages behind."""
    refused(sites=folder, code=code, says=[f"{folder}/requirements.txt", *says], **given)
    assert sets(tmp_path) == []


def test_a_package_that_the_folder_of_wheels_lacks(shop, tmp_path, given):
    needs(shop, "goods", "absent-goods>=2")
    fails(tmp_path, shop, "absent-goods>=2", f"{shop}/wheels", **given)
    wheel(shop / "wheels", "absent_goods", "", "2.0", FOREIGN)
    fails(tmp_path, shop, f"absent_goods-2.0-{FOREIGN}.whl", "Python 3.", os.uname().machine, **given)


def test_a_wheel_of_another_machine(tmp_path, given):
    wheel(tmp_path, "goods", "", tag=FOREIGN)
    folder = needs(tmp_path / "shop", f"../goods-1.0-{FOREIGN}.whl")
    fails(tmp_path, folder, f"goods-1.0-{FOREIGN}.whl", "another Python or machine", os.uname().machine, **given)


def test_a_package_that_does_not_exist(tmp_path):
    folder = needs(tmp_path / "shop", "no-such-package-of-atrio==1.0")
    fails(tmp_path, folder, "no-such-package-of-atrio==1.0", "not on the package index", cache=tmp_path / "cache")


def test_no_network(tmp_path, given):
    folder = needs(tmp_path / "shop", "goods")
    fails(tmp_path, folder, "cannot be reached", "wheels/", code=69, **given)


def test_a_package_that_must_be_built_and_cannot(tmp_path, given):
    slow_source(tmp_path / "goods", tmp_path / "gate", "goods", "built")
    (tmp_path / "goods/backend.py").write_text("def build_wheel(*_):\n    open('/nonexistent/gcc')\n")
    folder = needs(tmp_path / "shop", "../goods")
    fails(tmp_path, folder, "goods", "has no wheel for Python 3.", os.uname().machine, "wheels/", **given)


def test_a_line_that_is_none(tmp_path, given):
    folder = needs(tmp_path / "shop", "goods=1")
    fails(tmp_path, folder, "Invalid requirement", "goods=1", **given)


def test_a_cache_that_cannot_be_written(shop, tmp_path, given):
    (tmp_path / "cache").mkdir(mode=0o555)
    with without_privilege(tmp_path):
        refused(sites=shop, code=73, says=[f"{tmp_path}/cache", "ATRIO_CACHE"], **given)
    assert sets(tmp_path) == []


def test_packages_in_a_cache_that_cannot_be_written_are_used(shop, tmp_path, given):
    with Atrio(shop, **given):
        pass
    for folder, *_ in os.walk(tmp_path / "cache"):
        os.chmod(folder, 0o555)
    with without_privilege(tmp_path), Atrio(shop, **given) as server:
        assert answer(server) == "installed"


def mounted(tmp_path, folder, size):
    """Servers within see a small disk there."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    return started_by(
        tmp_path,
        f'#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c \'{mount} && exec "BINARY" "$@"\' - "$@"\n',
    )


@OUTSIDE
def test_a_full_disk(shop, tmp_path, given):
    (tmp_path / "cache").mkdir()
    wheel(shop / "wheels", "goods", "installed", files={"goods/large": "x" * 3_000_000})
    with mounted(tmp_path, tmp_path / "cache", "1m"):
        fails(tmp_path, shop, "disk is full", "ATRIO_CACHE", code=74, **given)


@OUTSIDE
def test_no_pip(shop, tmp_path, given):
    where = run("python", "-I", "-c", "import pip; print(pip.__path__[0])").stdout.strip()
    with mounted(tmp_path, where, "1m"):
        fails(tmp_path, shop, "no pip", "ATRIO_REQUIREMENTS=off", **given)


@OUTSIDE
@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"CACHE_DIRECTORY": "{0}/systemd:{0}/other"}, "systemd"),
        ({"XDG_CACHE_HOME": "{0}/xdg", "HOME": "{0}/home"}, "xdg/atrio"),
        ({"HOME": "{0}/home"}, "home/.cache/atrio"),
        ({"HOME": "/proc/nobody", "TMPDIR": "{0}/tmp"}, f"tmp/atrio-{os.getuid()}"),
    ],
)
def test_the_cache_is_in_the_first_usual_folder_that_can_be_written(shop, tmp_path, variables, where):
    (tmp_path / "tmp").mkdir()
    given = {"XDG_CACHE_HOME": None, "CACHE_DIRECTORY": None} | {k: v.format(tmp_path) for k, v in variables.items()}
    # Where /var/cache cannot be written, whoever runs the test.
    script = f'mount -t tmpfs -o mode=555 tmpfs /var/cache && exec {tmp_path}/unprivileged "$@"'
    if "CACHE_DIRECTORY" in variables:
        script = 'exec "BINARY" "$@"'
    with without_privilege(tmp_path):
        (tmp_path / "start").rename(tmp_path / "unprivileged")
    namespaces = "unshare --user --map-root-user --mount"
    start = f"#!/bin/sh\nexec {namespaces} sh -c '{script}' - \"$@\"\n"
    with started_by(tmp_path, start), Atrio(shop, **OFFLINE, **given) as server:
        assert answer(server) == "installed"
    assert len(list((tmp_path / where).glob("packages/*/*/goods"))) == 1


@pytest.fixture
def slow(tmp_path):
    """A site whose package is built until the test gives leave."""
    slow_source(tmp_path / "goods", tmp_path / "gate", "goods", "built")
    return needs(tmp_path / "shop", "../goods")


def under_way(tmp_path):
    eventually((tmp_path / "gate/begun").exists, what="the build to begin")


def go_on(tmp_path):
    (tmp_path / "gate/go").touch()


def test_the_site_is_starting_for_as_long_as_it_takes(slow, tmp_path, given):
    port = free_port()
    with Atrio(slow, ready=False, **given | {"admin_listen": f"127.0.0.1:{port}"}) as server:
        server.admin_port = port
        under_way(tmp_path)
        assert [server.admin(f"/{probe}").status for probe in ("livez", "readyz", "startupz")] == [200, 503, 503]
        server.hear("EXTEND_TIMEOUT_USEC=")
        assert "READY=1" not in server.said
        go_on(tmp_path)
        server.wait_ready()
        assert answer(server) == "built"
        assert server.admin("/startupz").status == 200


@OUTSIDE
@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 0), (SIGKILL, -SIGKILL)])
def test_an_end_during_the_installation_is_immediate_and_leaves_no_process(slow, tmp_path, given, number, code):
    with Atrio(slow, ready=False, **given) as server:
        under_way(tmp_path)
        children = server.children()
        assert len(children) >= 3, "the zygote, pip and what builds"
        server.signal(number)
        assert server.wait(10) == code
        gone(*children)
    go_on(tmp_path)
    with Atrio(slow, **given) as server:
        assert answer(server) == "built"
    assert len(sets(tmp_path)) == 1, "nothing half-installed is left"


def test_of_two_that_start_together_one_installs_and_the_other_waits(slow, tmp_path, given):
    with Atrio(slow, ready=False, **given) as first:
        under_way(tmp_path)
        with Atrio(slow, ready=False, **given) as second:
            second.wait_log("another process installs")
            go_on(tmp_path)
            for server in (first, second):
                server.wait_ready()
                assert answer(server) == "built"
            assert "Successfully" in first.log() and "Successfully" not in second.log()


def test_one_that_waits_for_another_can_be_ended(slow, tmp_path, given):
    with Atrio(slow, ready=False, **given):
        under_way(tmp_path)
        with Atrio(slow, ready=False, **given) as second:
            second.wait_log("another process installs")
            second.signal(SIGTERM)
            assert second.wait(10) == 0


def test_a_reload_installs_while_the_last_import_serves(shop, tmp_path, given):
    slow_source(tmp_path / "more", tmp_path / "gate", "more", "new")
    with Atrio(shop, **given) as server:
        needs(shop, "goods", "../more", value="more.VALUE", top="import more")
        server.signal(SIGHUP)
        under_way(tmp_path)
        assert [answer(server) for _ in range(4)] == ["installed"] * 4
        go_on(tmp_path)
        eventually(lambda: answer(server) == "new")


def test_a_reload_that_cannot_install_keeps_the_last_import_and_says_why(shop, tmp_path, given):
    with Atrio(shop, **given) as server:
        needs(shop, "absent")
        server.signal(SIGHUP)
        server.hear("RELOADING=1")
        server.hear("(?m)^READY=1$")
        assert answer(server) == "installed"
        (failed,) = [line for line in messages(server) if "the last import serves on" in line]
        assert "has no absent" in failed and "requirements.txt" in failed
        assert len(sets(tmp_path)) == 1
        needs(shop, "goods  # again")
        server.signal(SIGHUP)
        server.hear("RELOADING=1")
        server.hear("(?m)^READY=1$")
        eventually(lambda: server.metric("atrio_generation") == 3)
