"""A GenroPy project as its own commands make it, the daemon that it needs, and a visitor of its pages."""

import os
import re
import signal
import socket
import subprocess
from urllib.parse import urlencode, urljoin

import harness
from harness import eventually, free_port

SITE = "hall"
ROOT_PY = """\
import sys
sys.stdout = sys.stderr
from gnr.web.gnrwsgisite import GnrWsgiSite
site = GnrWsgiSite(__file__)

def application(environ,start_response):
    return site(environ,start_response)

if __name__ == '__main__':
    from gnr.web.server import NewServer
    server=NewServer(__file__)
    server.run()
"""
"""The declaration of the GenroPy manual, chapter WSGI, word for word."""


class Genro:
    """A project with one sqlite instance of the packages sys and adm. A context manager: inside, the daemon runs."""

    def __init__(self, folder, venv):
        self.folder, self.command = folder, [venv / "bin/gnr"]
        self.package = next(venv.glob("lib/python3*/site-packages/gnr"))
        self.settings = {"HOME": folder, "GENRO_GNRFOLDER": folder / ".gnr", "PYTHONWARNINGS": "ignore"}
        """All state of GenroPy stays in the folder."""
        if harness.IMAGE:
            # The environment's python is the image's.
            self.command = [harness.BINARY, "python", *self.command]
            self.settings["ATRIO_VENV"] = venv
        self.projects = folder / "projects"
        for new in (self.projects, folder / ".gnr"):
            new.mkdir()
        self.gnr("app", "initgenropy")
        self.configure()
        self.gnr("dev", "mkproject", "-b", self.projects, "-a", "-A", "gnrcore:sys,gnrcore:adm", SITE)
        self.gnr("db", "setup", SITE)
        self.site = self.projects / SITE / "instances" / SITE
        (self.site / "root.py").write_text(ROOT_PY)
        (self.site / ".venv").symlink_to(venv)

    def environment(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("GNR", "GENRO", "PYTHON", "VIRTUAL_ENV"))}
        return clean | {k: str(v) for k, v in self.settings.items()}

    def gnr(self, *args):
        done = subprocess.run(
            [*self.command, *args],
            check=False,
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"gnr {args}: {done.stdout}{done.stderr}"

    def configure(self):
        """A port of its own for the daemon, and this folder as the place of projects."""
        self.port = free_port()
        for name in ("environment.xml", "siteconfig/default.xml"):
            path = self.folder / ".gnr" / name
            text = re.sub(r'(<gnrdaemon [^>]*port=)"\d+"', rf'\1"{self.port}"', path.read_text())
            path.write_text(re.sub(r'<custom path="[^"]*"', f'<custom path="{self.projects}"', text))
        users = (self.folder / ".gnr/instanceconfig/default.xml").read_text()
        self.password = re.search(r'<admin pwd="(\w+)"', users)[1]

    def on_disk(self, path):
        """The file of the package behind a static URL, or None when the URL is made by the site."""
        kinds = {"_dojo/11": "dojo_libs/dojo_11", "_gnr/11": "gnrjs/gnr_d11", "_rsrc": "resources"}
        kinds |= {f"_pkg/{p}": f"projects/gnrcore/packages/{p}" for p in ("adm", "sys")}
        for prefix, folder in kinds.items():
            if path.startswith(f"/{prefix}/"):
                return self.package / folder / path.removeprefix(f"/{prefix}/").partition("?")[0]

    def daemon_answers(self):
        assert self.daemon.poll() is None, f"gnr web daemon: {(self.folder / 'daemon.log').read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", self.port)) == 0

    def __enter__(self):
        with open(self.folder / "daemon.log", "w") as log:
            self.daemon = subprocess.Popen(
                [*self.command, "web", "daemon"],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            eventually(self.daemon_answers, what="the answer of gnr web daemon")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # What is in a container is reached by signals that can be passed on.
        os.killpg(self.daemon.pid, signal.SIGTERM if harness.IMAGE else signal.SIGKILL)
        self.daemon.wait(harness.PATIENCE)


class Visitor:
    """A client with its cookie and its page, on one connection."""

    def __init__(self, server):
        self.server, self.connection, self.cookie, self.calls = server, server.connect(60), [], 0
        self.index = self.get("/")
        assert self.index.status == 200, (self.index, server.log())
        self.cookie = [("Cookie", self.index.header("Set-Cookie").partition(";")[0])]
        self.page_id = re.search(r"page_id:'([^']+)'", self.index.text)[1]

    def get(self, path, *headers):
        return self.connection.request(path, [*self.cookie, *headers])

    def rpc(self, method, **arguments):
        """Calls a method of the page as GenroPy's JavaScript does."""
        self.calls += 1
        form = urlencode({**arguments, "method": method, "page_id": self.page_id, "callcounter": self.calls})
        headers = [*self.cookie, ("Content-Type", "application/x-www-form-urlencoded")]
        return self.connection.request("/", headers, "POST", form.encode())

    def reconnect(self):
        self.connection.close()
        self.connection = self.server.connect(60)

    def assets(self):
        """The paths of all scripts, sheets and images that the index page names."""
        found = re.findall(r'(?:src=|href=|@import url\()"([^"]+)"', self.index.text)
        return sorted({urljoin("/", path) for path in found if not path.startswith("http")})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()
