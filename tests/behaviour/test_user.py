"""ATRIO_USER, ATRIO_GROUP, ATRIO_UMASK: the site runs as somebody else than the supervisor."""

import grp
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from signal import SIGKILL

import pytest

from behaviour.packages import wheel
from behaviour.support import answer, gone, refused, site, started_by
from behaviour.test_requirements import OFFLINE
from harness import Atrio, Connection, eventually, run

USER = pwd.getpwnam("daemon")
OTHER = grp.getgrnam("www-data")
WHO = (
    '{"ids": os.getresuid() + os.getresgid(), "groups": sorted(os.getgroups()),'
    ' "home": [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")]}'
)
HOME = [USER.pw_dir, USER.pw_name, USER.pw_name]

pytestmark = pytest.mark.binary("users and capabilities are those of this machine; tests/image has the image's")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can change the user")


@pytest.fixture
def open_path():
    """A folder that every user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="atrio-user-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def ids(uid, gid):
    return [uid] * 3 + [gid] * 3


def status(pid):
    """The user and group of a process."""
    found = Path(f"/proc/{pid}").stat()
    return found.st_uid, found.st_gid


WAYS = {
    "name": ({"user": USER.pw_name}, USER.pw_uid, USER.pw_gid, HOME),
    "number": ({"user": USER.pw_uid}, USER.pw_uid, USER.pw_gid, HOME),
    "both": ({"user": USER.pw_name, "group": OTHER.gr_name}, USER.pw_uid, OTHER.gr_gid, HOME),
    "numbers without a name": ({"user": 54321, "group": 54322}, 54321, 54322, ["/", "54321", "54321"]),
}


@needs_root
@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize("way", WAYS)
def test_the_site_runs_as_that_user_and_the_supervisor_does_not(open_path, way, preload):
    given, uid, gid, home = WAYS[way]
    with Atrio(site(open_path / "site", WHO), preload=preload, **given) as server:
        who = answer(server)
        assert who == {"ids": ids(uid, gid), "groups": [gid], "home": home}
        for pid in server.children():
            assert status(pid) == (uid, gid)
        assert status(server.pid) == (0, 0)
        (worker,) = server.workers()
        os.kill(worker, SIGKILL)
        gone(worker)
        eventually(lambda: server.metric('atrio_workers{site="site",state="ready"}') == 1)
        assert answer(server) == who, "the next worker too"
        server.signal(1)
        server.hear("(?m)^READY=1$")
        assert answer(server) == who, "the next import too"
        server.wait_log('"GET"', where="access_log")


@needs_root
def test_a_group_alone(open_path):
    with Atrio(site(open_path / "site", WHO), group=OTHER.gr_name, HOME="/somewhere") as server:
        who = answer(server)
    assert who["ids"] == ids(0, OTHER.gr_gid) and who["groups"] == [OTHER.gr_gid]
    assert who["home"][0] == "/somewhere"


@needs_root
def test_ports_below_1024_are_bound_before(open_path):
    with Atrio(site(open_path / "site", WHO), user=USER.pw_name, listen="127.0.0.1:0,127.0.0.2:81") as server:
        assert server.listen[1] == "127.0.0.2:81"
        assert answer(server)["ids"] == ids(USER.pw_uid, USER.pw_gid)


@needs_root
def test_the_umask_is_that_of_the_site(open_path):
    folder = site(open_path / "site", "os.umask(0)")
    with Atrio(folder, umask="0027") as server:
        assert answer(server) == 0o027
    socket = open_path / "socket"
    with Atrio(folder, umask="0077", listen=f"unix:{socket}"):
        with Connection(socket) as connection:
            assert connection.request().text == str(0o077)
        # The supervisor makes the socket, and its umask is what it was.
        assert socket.stat().st_mode & 0o777 == 0o777 & ~os.umask(os.umask(0o022))
    refused(sites=folder, umask="27", says=["ATRIO_UMASK=27", "octal", "0027"])


@needs_root
@pytest.mark.parametrize("new", ["absent", "fresh volume"])
def test_packages_are_installed_as_that_user(open_path, new):
    folder = site(open_path / "site", "[goods.VALUE, os.getuid()]", "import goods")
    wheel(folder / "wheels", "goods", "installed")
    (folder / "requirements.txt").write_text("goods\n")
    cache = open_path / "cache"
    if new == "fresh volume":
        cache.mkdir()
    with Atrio(folder, user=USER.pw_name, cache=cache, **OFFLINE) as server:
        assert answer(server) == ["installed", USER.pw_uid]
    assert {path.stat().st_uid for path in [cache, *cache.rglob("*")]} == {USER.pw_uid}


@needs_root
def test_a_cache_that_is_somebody_elses_is_refused(open_path):
    folder = site(open_path / "site", top="import goods")
    wheel(folder / "wheels", "goods", "installed")
    (folder / "requirements.txt").write_text("goods\n")
    (open_path / "cache/packages").mkdir(parents=True)
    refused(sites=folder, user=USER.pw_name, cache=open_path / "cache", code=73, says=["ATRIO_CACHE"], **OFFLINE)


@needs_root
def test_a_site_that_the_user_cannot_read_is_refused(open_path):
    folder = site(open_path / "site")
    folder.chmod(0o700)
    refused(sites=folder, user=USER.pw_name, says=[str(folder), "is it readable?"])


@needs_root
@pytest.mark.parametrize("given", [{"user": "root"}, {"group": OTHER.gr_name}, {"user": 54321, "group": 54322}])
def test_without_privilege_it_is_refused(open_path, given):
    folder = site(open_path / "site")
    unprivileged = f'#!/bin/sh\nexec setpriv --reuid {USER.pw_uid} --regid {USER.pw_gid} --clear-groups "BINARY" "$@"\n'
    with started_by(open_path, unprivileged):
        first = next(iter(given))
        refused(
            sites=folder,
            code=77,
            says=[f"ATRIO_{first.upper()}={given[first]}", "cannot be changed", "start Atrio as root"],
            **given,
        )
        with Atrio(folder, user=USER.pw_name, group=USER.pw_gid) as server:
            assert answer(server) == "here", "who it is already it need not become"


@needs_root
def test_without_the_capabilities_root_may_not_either(open_path):
    folder = site(open_path / "site")
    powerless = '#!/bin/sh\nexec setpriv --bounding-set -setuid,-setgid --inh-caps -all "BINARY" "$@"\n'
    with started_by(open_path, powerless):
        refused(sites=folder, user=USER.pw_name, code=77, says=[f"ATRIO_USER={USER.pw_name}", "not permitted"])


def test_users_that_do_not_exist_are_refused(tmp_path):
    folder = site(tmp_path)
    refused(sites=folder, user="nosuchuser", code=67, says=["ATRIO_USER=nosuchuser", "no such user"])
    refused(sites=folder, group="nosuchgroup", code=67, says=["ATRIO_GROUP=nosuchgroup", "no such group"])
    refused(sites=folder, user="54321", code=67, says=["ATRIO_USER=54321", "set ATRIO_GROUP too"])


def test_the_settings_are_shown():
    shown = run("config", user="www", group="web", umask="0027").stdout
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith(("user", "group", "umask"))] == [
        ["user", "www"],
        ["group", "web"],
        ["umask", "0027"],
    ]
