"""Where a site is found, how it is executed, and what is said when it cannot be."""

import time
from itertools import product

import pytest

from behaviour.support import answer, records, refused, site, without_privilege, write
from harness import Atrio, eventually, run


def test_a_site_is_found_in_the_folder_itself_and_has_its_name(tmp_path):
    with Atrio(site(tmp_path / "shop")) as server:
        assert answer(server) == "here"
        assert server.metric('atrio_workers{site="shop",state="ready"}') == 1


def test_a_site_is_found_one_folder_below_and_has_its_name(tmp_path):
    site(tmp_path / "shop")
    (tmp_path / "notes").mkdir()
    with Atrio(tmp_path) as server:
        assert answer(server) == "here"
        assert server.metric('atrio_workers{site="shop",state="ready"}') == 1


def test_the_folder_itself_goes_before_those_in_it(tmp_path):
    site(tmp_path / "shop", "'below'")
    with Atrio(site(tmp_path, "'above'")) as server:
        assert answer(server) == "above"


@pytest.mark.binary("the image has the folder /sites, which goes before ./sites")
def test_a_site_is_found_in_the_working_directory(tmp_path):
    site(tmp_path / "sites", "'in ./sites'")
    with Atrio(tmp_path, ATRIO_SITES=None, cwd=tmp_path) as server:
        assert answer(server) == "in ./sites"


def test_several_sites_are_listed_and_one_can_be_chosen(tmp_path):
    for name in ("admin", "blog", "shop"):
        site(tmp_path / name, f"'{name}'")
    refused(sites=tmp_path, says=["admin, blog, shop", "ATRIO_SITE=NAME"])
    refused(sites=tmp_path, site="blok", says=["ATRIO_SITE=blok", "admin, blog, shop"])
    with Atrio(tmp_path, site="blog") as server:
        assert answer(server) == "blog"


def test_what_is_not_there_is_named_with_a_remedy(tmp_path):
    refused(sites=tmp_path / "none", says=[f"{tmp_path}/none does not exist", "ATRIO_SITES"])
    refused(sites=tmp_path, says=[f"no root.py in {tmp_path}", "application(environ, start_response)"])
    refused(sites=tmp_path, script="main.py", says=f"no main.py in {tmp_path}")
    (tmp_path / "file").touch()
    refused(sites=tmp_path / "file", says="ATRIO_SITES")
    (tmp_path / "root.py").mkdir()
    refused(sites=tmp_path, says="root.py")
    refused(cwd=tmp_path, says=["/sites", "ATRIO_SITES"])


WRONG = {
    "syntax": ("def application(:", ["SyntaxError", "traceback above"], "root.py"),
    "nothing": ("app = 1", ["does not declare `application`", "ATRIO_CALLABLE"], ""),
    "number": ("application = 5", ["cannot be called", "ATRIO_CALLABLE"], ""),
    "exit": ("import sys\nsys.exit()", ["sys.exit()", "__main__"], ""),
    "exit 0": ("import sys\nsys.exit(0)", ["sys.exit()", "__main__"], ""),
    "error": ("{}['shop']", ["KeyError: 'shop'"], "line 1"),
    "import": ("import no_such_thing", ["no_such_thing", "atrio pip install"], "ModuleNotFoundError"),
    "name": ("from os import no_such_name", ["no_such_name"], "ImportError"),
    "interrupt": ("raise KeyboardInterrupt", ["KeyboardInterrupt"], "Traceback"),
    "memory": ("raise MemoryError", ["MemoryError"], "Traceback"),
    "recursion": ("def f(): f()\nf()", ["RecursionError"], "Traceback"),
    "bytes": ("# \\xff\nnot_utf8 = '\xff'", ["root.py"], "Error"),
    "null": ("a = 1\0", ["root.py"], "Error"),
    "message": ("raise ValueError('one\\ntwo\\n\\x1b[31mred')", ["ValueError"], "Traceback"),
    "surrogate": ("raise ValueError('\\udcff')", ["ValueError"], "Traceback"),
}


@pytest.mark.parametrize(("kind", "preload"), [*product(WRONG, ["auto", "off"])])
def test_a_site_that_cannot_be_imported_ends_the_start_with_advice(tmp_path, kind, preload):
    code, says, before = WRONG[kind]
    (tmp_path / "root.py").write_bytes(code.encode("latin-1"))
    assert before in refused(sites=tmp_path, preload=preload, says=[*says, str(tmp_path)])


def test_the_traceback_of_a_failed_import_is_one_record_and_the_site_s_own(tmp_path):
    write(tmp_path, "def deep():\n    return {}['shop']\n", "deep.py")
    log = refused(sites=write(tmp_path, "import deep\ndeep.deep()"), says="KeyError")
    (record,) = [record["message"] for record in records(log) if "Traceback" in record["message"]]
    assert f'{tmp_path}/root.py", line 2' in record and f'{tmp_path}/deep.py", line 2, in deep' in record


def test_a_script_that_may_not_be_read_is_named(tmp_path):
    site(tmp_path / "site").joinpath("root.py").chmod(0)
    with without_privilege(tmp_path):
        refused(sites=tmp_path / "site", code=77, says=["root.py cannot be read", "Permission denied"])


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    site(tmp_path / "sites/shop")
    (tmp_path / "sites").chmod(0)
    with without_privilege(tmp_path):
        refused(sites=tmp_path / "sites", code=77, says=["ATRIO_SITES", "cannot be read"])
    (tmp_path / "sites").chmod(0o755)


def test_an_only_site_that_may_not_be_read_is_not_said_to_be_missing(tmp_path):
    site(tmp_path / "sites/shop").joinpath("root.py").chmod(0)
    with without_privilege(tmp_path):
        refused(sites=tmp_path / "sites", code=77, says=["shop/root.py", "cannot be read"])


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "MemoryError", "GeneratorExit", "RecursionError"])
def test_no_exception_in_a_request_ends_the_worker(tmp_path, error):
    with Atrio(
        site(tmp_path, "fail() if environ['QUERY_STRING'] else os.getpid()", f"def fail(): raise {error}(0)")
    ) as server:
        before = answer(server)
        for _ in range(10):
            assert server.get("/?fail").status == 500
        assert answer(server) == before
        eventually(lambda: server.log().count("Traceback") == 10)


def test_a_script_is_executed_as_a_module_in_its_folder(tmp_path):
    folder = site(
        tmp_path / "shop",
        "[__name__, __file__, os.getcwd(), sys.path[0], sys.argv, helper.root.application is application]",
        "import helper",
    )
    write(folder, "import root", "helper.py")
    with Atrio(folder) as server:
        assert answer(server) == [
            "root",
            f"{folder}/root.py",
            str(folder),
            str(folder),
            [f"{folder}/root.py"],
            True,
        ]


def test_script_and_callable_can_be_chosen(tmp_path):
    site(tmp_path, "[__name__ != '__main__', __file__]", script="shop.wsgi", callable="app")
    with Atrio(tmp_path, script="shop.wsgi", callable="app") as server:
        assert answer(server) == [True, f"{tmp_path}/shop.wsgi"]


def test_a_script_does_not_hide_the_package_that_it_is_named_after(tmp_path):
    """Flask's manual for mod_wsgi: shop.wsgi says `from shop import app as application`."""
    write(tmp_path, "VALUE = 'of the package'", "shop.py")
    with Atrio(site(tmp_path, "shop.VALUE", "import shop", script="shop.wsgi"), script="shop.wsgi") as server:
        assert answer(server) == "of the package"


def test_a_site_in_a_folder_that_cannot_be_written_is_served(tmp_path):
    site(tmp_path / "site").chmod(0o555)
    with without_privilege(tmp_path), Atrio(tmp_path / "site", PYTHONDONTWRITEBYTECODE=None) as server:
        assert answer(server) == "here"
    (tmp_path / "site").chmod(0o755)


def test_a_site_whose_path_has_spaces_and_letters_is_served(tmp_path):
    folder = site(tmp_path / "mein Café 店", "[__file__, os.getcwd()]")
    with Atrio(folder) as server:
        assert answer(server) == [f"{folder}/root.py", str(folder)]
        assert server.metric("atrio_generation") == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_multithread_and_multiprocess_tell_the_truth(tmp_path, threads, workers):
    value = "[environ['wsgi.multithread'], environ['wsgi.multiprocess'], environ['wsgi.run_once']]"
    with Atrio(site(tmp_path, value), threads=threads, workers=workers) as server:
        assert answer(server) == [threads > 1, workers > 1, False]


def test_the_environ_holds_what_is_declared_and_nothing_of_the_process_s_environment(tmp_path):
    value = "{k: v for k, v in environ.items() if isinstance(v, str)}"
    with Atrio(site(tmp_path, value), env_PROCESS_GROUP="gnr", env_Mixed="é", SECRET="hush") as server:
        seen = answer(server)
    assert seen["PROCESS_GROUP"] == "gnr"
    assert "SECRET" not in seen and "PATH" not in seen and "HOME" not in seen
    assert not [name for name in seen if name.startswith("ATRIO")]


def test_the_import_takes_as_long_as_it_takes(tmp_path):
    start = time.monotonic()
    with Atrio(site(tmp_path, top="import time\ntime.sleep(1.5)")) as server:
        assert time.monotonic() - start > 1.5
        assert server.admin("/startupz").status == 200
        assert answer(server) == "here"


def test_the_check_of_a_missing_site_comes_before_anything_is_bound(tmp_path):
    """Restarts of a wrong configuration must not steal connections from the instance that serves."""
    with Atrio(site(tmp_path / "a")) as server:
        result = run(sites=tmp_path / "none", listen=f"127.0.0.1:{server.port}")
        assert result.returncode == 78
        assert answer(server) == "here"
