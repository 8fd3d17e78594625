"""The README is true: its commands run, section by section, and say what it shows; its names and messages exist."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections import defaultdict

import pytest

import harness
from harness import PATIENCE, ROOT, clean_environment, eventually, run
from real.conftest import build_venv
from real.genro import Genro

README = (ROOT / "README.md").read_text()
SOURCES = "".join(f.read_text() for f in sorted((ROOT / "src").rglob("*.rs"))).replace('\\"', '"')
COMMANDS, FILES, OTHERS = ("sh", "console"), ("python", "toml", "dockerfile"), ("text",)
"""Kinds of blocks: commands; files that begin with their path in a comment; what is only read."""

SERVES = re.compile(r"(\w+=\S+ )*(make run|atrio)( serve| --(?!help|version)\S+.*)?( [<>]\S+)?|docker run (?!--rm).*")
"""A command that does not end by itself."""
END = re.compile(r"(?s)(.*)\x1e(\d+)\n")
STAND_INS = {"make test": "make --dry-run test", "make image": "make --dry-run image"}
"""`make test` runs this very test. What `make run` and `make image` build is there already: cargo gets a stand-in."""
CARGO = "#!/bin/sh\necho rustc 99.0.0\n"
DOCKER = f"""#!/bin/sh
# Marks containers for their removal, and lets pip get at its packages as it can on this machine.
command=$1; shift
certificates=/etc/ssl/certs/ca-certificates.crt
case "$command $*" in
  *" pip "*) set -- --network host --env PIP_CERT=$certificates --volume "${{SSL_CERT_FILE:-$certificates}}:$certificates:ro" "$@" ;;
  build*)
    cp "${{SSL_CERT_FILE:-$certificates}}" certificates.crt
    sed -i "s|^USER root|&\\nENV PIP_CERT=$certificates\\nCOPY certificates.crt $certificates|" Dockerfile
    set -- --network host "$@" ;;
esac
[ "$command" != run ] || set -- --label "atrio-test={ROOT}" --label "scene=$HOME" "$@"
exec {shutil.which("docker")} "$command" "$@"
"""
CONTAINER = "In a container"
"""The section whose commands want the image; those of the others want the binary."""


def blocks():
    """(section, language, text) of every fenced block, in order."""
    section = None
    for heading, language, text in re.findall(r"(?ms)^##+ ([^\n]+)|^```(\w*)\n(.*?)^```$", README):
        section = heading or section
        if not heading:
            yield section, language, text


SECTIONS = defaultdict(list)
for where, *block in blocks():
    SECTIONS[where].append(block)


def steps(language, text):
    """[command, what it shows or None] of a block."""
    if language == "sh":
        return [[line, None] for line in text.splitlines()]
    found = [[part.partition("\n")[0], part.partition("\n")[2]] for part in re.split(r"(?m)^\$ ", text)[1:]]
    return [[command, shown or None] for command, shown in found]


class Scene:
    """A folder with what the README speaks of, and a shell in it. Ports are the kernel's choice."""

    def __init__(self, folder, environment):
        self.folder, self.ports, self.waits = folder, {}, {}
        for name in ("Makefile", ".ci", "Cargo.toml", "tests"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "sites", folder / "sites", ignore=shutil.ignore_patterns("__pycache__"))
        self.place("target/release/atrio").symlink_to(os.path.abspath(harness.BINARY))
        for tool in ("cargo", "rustc"):
            self.place(f"stand-ins/{tool}").write_text(CARGO)
            (folder / f"stand-ins/{tool}").chmod(0o755)
        self.place("stand-ins/docker").write_text(DOCKER)
        (folder / "stand-ins/docker").chmod(0o755)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(PATIENCE)
        path = f"{folder}/stand-ins:{folder}/target/release:{os.environ['PATH']}"
        given = {"ATRIO_LISTEN": "127.0.0.1:0", "ATRIO_ADMIN_LISTEN": "127.0.0.1:0", "NOTIFY_SOCKET": folder / "notify"}
        given["ATRIO_CACHE"] = folder / "cache"
        self.shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=clean_environment(
                **given, PATH=path, HOME=folder, MAKEFLAGS=None, CARGO_TARGET_DIR=None, **environment
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def place(self, path):
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def play(self, language, text):
        if language in FILES:
            first, content = text.split("\n", 1)
            self.place(first.removeprefix("# ")).write_text(content)
        elif language in COMMANDS:
            for command, shown in steps(language, text):
                self.run(command, shown)

    def run(self, command, shown):
        command = command.partition("  #")[0].strip()
        for port, name in (("8080", "LISTEN"), ("9090", "ADMIN_LISTEN")):
            command = command.replace(f"localhost:{port}", self.ports.get(name, f"localhost:{port}"))
        port = free_port()
        command = command.replace("-p 8080:8080", f"-p 127.0.0.1:{port}:8080")
        words = command.removesuffix("&").strip()
        serves = bool(SERVES.fullmatch(words))
        words = STAND_INS.get(words, words)
        if serves or command.endswith("&"):
            words = f">>log 2>&1 {words} &"
        output, code = self.execute(words)
        assert code == 0, f"{command} ended with {code}:\n{output}\n{self.log()}"
        if shown is not None:
            pattern = ".*".join(r"\s+".join(map(re.escape, part.split(" "))) for part in squeezed(shown).split("…"))
            assert re.fullmatch(pattern, squeezed(output), re.DOTALL), f"{command} shows\n{output}\nand not\n{shown}"
        if command.startswith("docker run") and serves:
            eventually(lambda: self.execute(f"curl -fs -o page.html localhost:{port}/")[1] == 0, what=self.log())
        elif serves or command.startswith("kill -HUP"):
            self.await_ready()
        self.waits.get(command, lambda: None)()

    def execute(self, command):
        self.shell.stdin.write(f"{command}\nprintf '\\036%s\\n' $?\n".encode())
        self.shell.stdin.flush()
        said = b""
        while not (end := END.fullmatch(said.decode(errors="replace"))):
            more = os.read(self.shell.stdout.fileno(), 65536)
            assert more, f"{command} ended the shell:\n{said.decode()}"
            said += more
        return end[1], int(end[2])

    def await_ready(self):
        said = ""
        while "READY=1" not in said.splitlines():
            try:
                said = self.notify.recv(65536).decode()
            except TimeoutError:
                pytest.fail(f"not ready: {self.log()}")
        self.ports |= dict(re.findall(r"(?m)^X_ATRIO_(\w+)=(\S+)$", said))

    def log(self):
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait()
        self.notify.close()
        if harness.IMAGE:
            left = ["docker", "ps", "--all", "--quiet", "--filter", f"label=scene={self.folder}"]
            for container in subprocess.check_output(left, text=True).split():
                subprocess.run(["docker", "rm", "--force", container], check=True, stdout=subprocess.DEVNULL)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def squeezed(text):
    return re.sub(r"[ \t]+", " ", text).strip()


@pytest.fixture
def genro(tmp_path):
    """What the section on GenroPy finds: a project, a virtual environment, settings with a port of this test's own."""
    venv = build_venv("genropy")
    (tmp_path / "venv").symlink_to(venv)
    genro = Genro(tmp_path, venv)
    # The site's own link to the environment would stand for --venv.
    (genro.site / ".venv").unlink()
    return genro


@pytest.mark.binary("a reader types these commands outside of a container")
@pytest.mark.parametrize("section", [section for section in SECTIONS if section != CONTAINER])
def test_the_commands_of(section, tmp_path, request):
    environment, waits = {}, {}
    if section == "GenroPy":
        genro = request.getfixturevalue("genro")
        environment = {k: v for k, v in genro.settings.items() if k != "HOME"}

        def daemon_answers():
            with socket.socket() as probe:
                return probe.connect_ex(("localhost", genro.port)) == 0

        waits = {"venv/bin/gnr web daemon &": lambda: eventually(daemon_answers, what="the daemon's answer")}
    with Scene(tmp_path, environment) as scene:
        scene.waits = waits
        for block in SECTIONS[section]:
            scene.play(*block)


@pytest.mark.image("its commands want the image")
def test_the_commands_of_the_container(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "requirements.txt").write_text("flask\n")
    with Scene(tmp_path, {}) as scene:
        for block in SECTIONS[CONTAINER]:
            scene.play(*block)
        shown, _ = scene.execute(
            "docker run --rm my-site python -c 'import flask; print(flask.__file__)'; docker rmi my-site"
        )
    assert shown.startswith("/usr/local/lib/python3.13/dist-packages/flask/")
    assert (tmp_path / "sites/site-packages/flask").is_dir()


def test_no_block_is_left_out():
    assert {language for _, language, _ in blocks()} <= {*COMMANDS, *FILES, *OTHERS}
    assert README.count("\n```") == 2 * len(list(blocks()))
    assert len([step for _, *block in blocks() if block[0] in COMMANDS for step in steps(*block)]) > 30
    for _, language, text in blocks():
        assert language not in FILES or re.match(r"# [\w/.]+\n", text), text


@pytest.mark.binary("it is about this folder")
def test_make_test_does_everything(tmp_path):
    with Scene(tmp_path, {}) as scene:
        plan, code = scene.execute("make --dry-run test")
    assert code == 0, plan
    for part in ("ruff check", "ruff format", "cargo fmt --check", "cargo clippy --all-targets", "-D warnings"):
        assert part in plan
    order = [
        plan.index(part) for part in ("cargo test", "cargo build --release", "bin/pytest", "image/build", "with-arm64")
    ]
    assert order == sorted(order)


def test_the_targets_and_files_that_it_names_exist():
    targets = set(re.findall(r"(?m)^(\w+):.*## ", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"(?m)(?:`|^)make (\w+)", README))
    assert {"run", "test"} <= named <= targets
    for path in re.findall(r"`((?:config|\.ci|sites)/[\w./]+|\w+\.toml)`", README):
        assert (ROOT / path).exists() or path == "atrio.toml", path


def test_the_settings_that_it_names_exist():
    known = {f"ATRIO_{line.split()[0].upper()}" for line in run("config").stdout.splitlines()} | {"ATRIO_ENV_NAME"}
    named = {name.removesuffix("_FILE") for name in re.findall(r"ATRIO_[A-Z_]*[A-Z]", README)}
    assert len(named) > 25 and named <= known


def rows(heading):
    """The first cells of the table under a heading."""
    table = re.search(rf"(?ms)^##+ {heading}\n(.*?)(?=^##|\Z)", README)[1]
    return [re.split(r"(?<!\\)\|", line)[1].strip() for line in re.findall(r"(?m)^\|.*$", table)[2:]]


def test_the_exit_codes_are_those_of_the_binary():
    codes = re.findall(r"(?m)^    \w+ = (\d+),$", (ROOT / "src/exit.rs").read_text())
    assert rows("Exit codes") == ["0", *codes]


@pytest.mark.parametrize("message", rows("When it does not work"))
def test_a_message_that_it_explains_is_one_of_the_binary(message):
    literal = re.match(r"`(.*)`", message)[1]
    for part in literal.split("…"):
        assert part.strip(" `") in SOURCES, part


@pytest.mark.parametrize("path", rows("Endpoints"))
def test_an_endpoint_that_it_names_answers(path):
    with harness.Atrio(ROOT / "sites") as server:
        assert server.admin(path.strip("`")).status == 200
