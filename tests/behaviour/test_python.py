"""The binary as python: what programs expect of `sys.executable`, and people of `python3`."""

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

import harness
from behaviour.support import answer, site, write
from harness import Atrio, clean_environment, run


@pytest.fixture(params=["atrio python", "python", "python3"])
def python(request, tmp_path):
    """Runs python by one of its names; the arguments are python's."""
    link = tmp_path / request.param
    if request.param == "atrio python":
        start = [harness.BINARY, "python"]
    else:
        link.symlink_to(harness.BINARY)
        start = [link]

    def call(*args, **options):
        options = {"env": clean_environment(), "timeout": 60, "capture_output": True, "text": True} | options
        return subprocess.run([*start, *args], check=False, **options)

    return call


def test_commands_modules_scripts_and_stdin(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv, __name__, __file__, sys.path[0])")
    assert python("-c", "import sys; print(sys.argv)", "a", "-b").stdout == "['-c', 'a', '-b']\n"
    assert python("-m", "json.tool", input="[1]").stdout.split() == ["[", "1", "]"]
    assert (
        python(script, "--threads", "x").stdout == f"{[str(script), '--threads', 'x']} __main__ {script} {tmp_path}\n"
    )
    assert python(input="import sys; print(sys.argv)").stdout == "['']\n"
    assert python("-", "a", input="import sys; print(sys.argv)").stdout == "['-', 'a']\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('no')", 1),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("raise KeyboardInterrupt", -2),
        ("import os; os._exit(9)", 9),
    ],
)
def test_exit_codes_are_python_s(python, code, expected):
    if harness.IMAGE and expected < 0:
        expected = 128 - expected
    assert python("-c", code).returncode == expected


def test_wrong_options_and_missing_scripts_are_refused_as_by_python(python):
    assert python("--nonsense").returncode == 2
    assert "can't open file" in python("/nonexistent.py").stderr


def test_its_version_is_python_s(python):
    assert re.fullmatch(r"Python 3\.\d+\.\d+\S*\n", python("--version").stdout)
    assert "usage:" in python("--help").stdout


@pytest.mark.parametrize(
    ("options", "expression", "expected"),
    [
        (["-X", "utf8=1"], "sys.flags.utf8_mode", 1),
        (["-X", "utf8=0"], "sys.flags.utf8_mode", 0),
        (["-X", "dev"], "sys.flags.dev_mode", True),
        (["-I"], "sys.flags.isolated", 1),
        (["-E"], "sys.flags.ignore_environment", 1),
        (["-O"], "sys.flags.optimize", 1),
        (["-u"], "sys.stdout.write_through", True),
        (["-W", "error"], "sys.warnoptions", ["error"]),
        (["-S"], "'site' in sys.modules", False),
    ],
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_options_count(options, expression, expected, locale):
    unset = dict.fromkeys(("PYTHONUTF8", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"))
    result = run("python", *options, "-c", f"import json, sys; print(json.dumps({expression}))", LC_ALL=locale, **unset)
    assert json.loads(result.stdout) == expected, result


def test_it_finds_itself(python):
    code = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', 'print(6 * 7)'], text=True))"
    assert python("-c", code).stdout.strip() == "42"


SPAWN = """
import multiprocessing, os

def work(number):
    return number * 2, os.getpid()

if __name__ == "__main__":
    multiprocessing.set_start_method("METHOD")
    with multiprocessing.Pool(2) as pool:
        results = pool.map(work, range(4))
    print([number for number, _ in results], os.getpid() in [pid for _, pid in results])
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing_works(python, tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SPAWN.replace("METHOD", method))
    assert python(script).stdout == "[0, 2, 4, 6] False\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("preload", ["on", "off"])
def test_multiprocessing_works_in_a_request(tmp_path, method, preload):
    top = f"import multiprocessing, work\ncontext = multiprocessing.get_context({method!r})"
    folder = site(tmp_path, "[context.Process, (lambda p: p.map(work.double, [1, 2]))(context.Pool(2))][1]", top)
    write(folder, "def double(number):\n    return 2 * number", "work.py")
    with Atrio(folder, preload=preload) as server:
        assert answer(server) == [2, 4]


def test_sys_executable_runs_python_in_a_request(tmp_path):
    code = "import sys; print(sys.argv, sys.executable)"
    value = f"[sys.executable, subprocess.check_output([sys.executable, '-c', {code!r}, 'x'], text=True)]"
    with Atrio(site(tmp_path, value, "import subprocess")) as server:
        executable, output = answer(server)
    assert Path(executable) == Path("/usr/bin/atrio" if harness.IMAGE else harness.BINARY).resolve()
    assert output == f"['-c', 'x'] {executable}\n"


@pytest.mark.binary("it is a shell that tells, and the image has none")
def test_programs_of_a_request_inherit_no_descriptor_and_no_signal_mask(tmp_path):
    code = "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"
    value = f"subprocess.run({code!r}, shell=True, capture_output=True, text=True, close_fds=False).stdout"
    with Atrio(site(tmp_path, value, "import subprocess")) as server:
        _, blocked, _, ignored, *descriptors = answer(server).split()
    standard = (1 << 31) - 1
    assert int(blocked, 16) & standard == int(ignored, 16) & standard == 0
    assert set(descriptors) <= {"0", "1", "2", "3"}, "3 is what ls reads"


def test_a_site_s_script_runs_as_a_program(tmp_path, python):
    write(tmp_path / "site", "print(__name__)\ndef application(e, s): pass", "root.py")
    assert python(tmp_path / "site/root.py").stdout == "__main__\n"


def test_venv_makes_an_environment_of_this_python_with_pip(python, tmp_path):
    result = python("-m", "venv", tmp_path / "made")
    assert result.returncode == 0, result

    def run_there(program, *args):
        """Where the interpreter is: in an image it is nothing outside."""
        command = [str(tmp_path / "made/bin" / program), *args]
        return python("-c", f"import subprocess, sys; sys.exit(subprocess.call({command}))").stdout

    there = run_there("python", "-c", "import sys, pip; print(sys.prefix, sys.executable, pip.__file__)")
    prefix, executable, pip = there.split()
    assert (prefix, executable) == (str(tmp_path / "made"), str(tmp_path / "made/bin/python"))
    assert pip.startswith(prefix)
    assert str(tmp_path / "made") in run_there("pip", "--version")


def test_pip_is_there():
    result = run("pip", "--version")
    assert result.returncode == 0
    assert re.match(r"pip \d+.*\(python 3\.\d+\)", result.stdout)


def test_the_interpreter_at_a_terminal():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(harness.BINARY, [harness.BINARY, "python", "-q"], clean_environment(TERM="dumb", PYTHONSTARTUP=""))
    shown = b""

    def show(words):
        nonlocal shown
        end = time.monotonic() + 20
        while words not in shown:
            assert select.select([terminal], [], [], end - time.monotonic())[0], shown
            shown += os.read(terminal, 1000)
        shown = shown.partition(words)[2]

    show(b">>> ")
    os.write(terminal, b"6 * 7\n")
    show(b"42")
    os.write(terminal, b"import sys; sys.exit(3)\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    os.close(terminal)


@pytest.mark.binary("the output of a container is the engine's")
def test_a_full_disk_ends_it_as_it_ends_python(python):
    with open("/dev/full", "w") as full:
        options = {"stdout": full, "capture_output": False, "env": clean_environment(PYTHONUNBUFFERED=None)}
        assert python("-c", "print(1)", **options).returncode == 120
