"""The image as Docker runs it, and as it lies in target/image."""

import fcntl
import json
import os
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest

from harness import IMAGE, PATIENCE, ROOT, Connection, build_once, eventually

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CERTIFICATES = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
WHEELS = ["lxml", "numpy", "psycopg2-binary"]
"""Packages with C extensions, which bring libraries of their own along or want the image's."""


def docker(*args, check=True, timeout=300, **options):
    """Runs a command of Docker's to its end; the CompletedProcess, with text output."""
    command = ["docker", *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **options)
    assert not check or result.returncode == 0, result
    return result


def debian_with(*packages):
    """The name of an image of Debian with these packages, made once."""
    name = f"atrio-test:{'-'.join(packages)}"
    with open(TARGET / f"{packages[0]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if docker("image", "inspect", name, check=False).returncode != 0:
            make = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", "trixie", "-"]
            with subprocess.Popen(make, stdout=subprocess.PIPE) as root:
                docker("import", "--change", "ENV container=docker", "-", name, stdin=root.stdout)
            assert root.returncode == 0
    return name


class Container:
    """A container that serves in the background. A context manager: leaving it removes the container."""

    def __init__(self, image, architecture, *options, command=(), sites=None, patience=PATIENCE):
        self.name = f"atrio-test-{uuid.uuid4().hex[:12]}"
        self.patience = patience
        options = [
            "--platform",
            f"linux/{architecture}",
            *options,
            *(["--volume", f"{sites}:/sites:ro"] if sites else []),
        ]
        ports = ["--publish", "127.0.0.1::8080", "--publish", "127.0.0.1::9090"]
        docker(
            "run", "--detach", "--name", self.name, "--label", f"atrio-test={ROOT}", *ports, *options, image, *command
        )

    def inspect(self, path):
        return docker("inspect", "--format", f"{{{{json {path}}}}}", self.name).stdout.strip()

    def state(self, name):
        return json.loads(self.inspect(f".State.{name}"))

    def port(self, inside):
        ports = json.loads(self.inspect(".NetworkSettings.Ports"))
        return int(ports[f"{inside}/tcp"][0]["HostPort"])

    def ready(self):
        """Waits until it can take requests, and then fixes the ports."""
        eventually(self.is_ready, self.patience, "readiness")
        self.http, self.admin = self.port(8080), self.port(9090)
        return self

    def is_ready(self):
        if not self.state("Running"):
            raise AssertionError(f"it has ended:\n{self.log()}")
        try:
            with Connection(self.port(9090), 20) as connection:
                return connection.request("/readyz").status == 200
        except (OSError, EOFError):
            return False

    def get(self, path="/", **options):
        with Connection(self.http, self.patience) as connection:
            return connection.request(path, **options)

    def wait(self):
        """Its exit code, once it has ended."""
        return int(docker("wait", self.name, timeout=self.patience).stdout)

    def log(self):
        shown = docker("logs", self.name)
        return shown.stdout + shown.stderr

    def __enter__(self):
        return self

    def __exit__(self, *_):
        docker("rm", "--force", "--volumes", self.name)


class Image:
    """The image of an architecture, in the engine and in the layout."""

    def __init__(self, architecture):
        self.architecture = architecture
        self.machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
        self.native = self.machine == os.uname().machine
        self.name = IMAGE if self.native else f"{IMAGE}-test:{architecture}"
        """Emulated programs take their time."""
        self.patience = PATIENCE if self.native else 4 * PATIENCE
        self.manifest, self.config = self.describe()

    def blob(self, descriptor):
        return TARGET / "image/blobs" / descriptor["digest"].replace(":", "/")

    def describe(self):
        (index,) = json.loads((TARGET / "image/index.json").read_text())["manifests"]
        manifests = json.loads(self.blob(index).read_text())["manifests"]
        (mine,) = [m for m in manifests if m["platform"] == {"architecture": self.architecture, "os": "linux"}]
        manifest = json.loads(self.blob(mine).read_text())
        return manifest, json.loads(self.blob(manifest["config"]).read_text())

    def files(self):
        """{path: TarInfo} of everything that is in it."""
        found = {}
        for layer in self.manifest["layers"]:
            with tarfile.open(self.blob(layer)) as tar:
                found |= {member.name.rstrip("/"): member for member in tar if member.name.strip("./")}
        return found

    def extract(self, path):
        """The bytes of a file."""
        for layer in reversed(self.manifest["layers"]):
            with tarfile.open(self.blob(layer)) as tar:
                if path in tar.getnames():
                    return tar.extractfile(path).read()
        raise FileNotFoundError(path)

    def load(self):
        """Gives an emulated image to the engine, too."""
        if not self.native:
            source = ["--override-arch", self.architecture, f"oci:{TARGET / 'image'}"]
            subprocess.run(["skopeo", "copy", "--quiet", *source, f"docker-daemon:{self.name}"], check=True)

    def run(self, *command, options=(), check=True, **more):
        """Runs a command in a container to its end."""
        options = ["--rm", "--platform", f"linux/{self.architecture}", "--label", f"atrio-test={ROOT}", *options]
        return docker("run", *options, self.name, *command, check=check, timeout=self.patience, **more)

    def container(self, *options, **more):
        return Container(self.name, self.architecture, *options, patience=self.patience, **more)

    def install(self, folder, *packages):
        """Has the image's pip install packages into a folder, as the caller."""
        options = ["--network", "host", "--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{folder}:/packages"]
        options += (
            ["--volume", f"{CERTIFICATES}:/etc/ssl/certs/ca-certificates.crt:ro"] if Path(CERTIFICATES).exists() else []
        )
        options += [word for name in ("PIP_INDEX_URL", "PIP_PROXY") if name in os.environ for word in ("--env", name)]
        pip = ["pip", "install", "--quiet", "--only-binary", ":all:", "--target", "/packages", *packages]
        options += ["--env", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt", "--platform", f"linux/{self.architecture}"]
        docker("run", "--rm", *options, self.name, *pip, timeout=500)


@pytest.fixture(scope="session", params=["amd64", "arm64"])
def image(request):
    """The image, once for each architecture."""
    found = Image(request.param)
    with open(TARGET / f"image-{found.architecture}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found.load()
    return found


@pytest.fixture(scope="session")
def wheels(image):
    """A folder with WHEELS, installed once for all test processes by the image itself."""

    def install(folder):
        folder.mkdir()
        image.install(folder, *WHEELS)

    return build_once(TARGET / "test-venvs" / f"wheels-{image.architecture}", install)
