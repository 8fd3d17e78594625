"""Drives Debian's headless Chromium by the DevTools protocol over a pair of pipes: no driver and no port."""

import base64
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
import zlib

from harness import eventually

PATIENCE = 30.0
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-pipe",
]


def above_ten(fd):
    """Chromium reads its commands from 3 and answers on 4: ours must not stand in their place."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


class Chromium:
    """One browser with one page. `failures` are the requests that did not get an answer below 400,
    `complaints` the exceptions that no script caught."""

    def __init__(self):
        program = shutil.which("chromium")
        assert program, "no chromium on the PATH: apt-get install chromium"
        self.home = tempfile.mkdtemp(prefix="atrio-chromium-")
        commands, self.commands = map(above_ten, os.pipe())
        self.answers, answers = map(above_ten, os.pipe())
        takeover = f'exec "$@" 3<&{commands} 4>&{answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", takeover, "bash", program, *FLAGS, f"--user-data-dir={self.home}"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": self.home},
        )
        os.close(commands)
        os.close(answers)
        self.buffer, self.last, self.session = b"", 0, None
        self.answered, self.asked, self.failures, self.complaints = {}, {}, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while self.last not in self.answered:
            self.listen(deadline)
        answer = self.answered.pop(self.last)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def listen(self, deadline):
        """Takes the next message in, an answer or an event."""
        while b"\0" not in self.buffer:
            readable, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.answers, 1 << 20) if readable else b""
            assert data, f"chromium {'ended' if readable else 'gave no answer'} (exit code {self.process.poll()})"
            self.buffer += data
        raw, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(raw)
        if "id" in message:
            self.answered[message["id"]] = message
        else:
            self.event(message["method"], message["params"])

    def event(self, name, params):
        if name == "Network.requestWillBeSent":
            self.asked[params["requestId"]] = params["request"]
        elif name == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.failures.append((params["response"]["status"], params["response"]["url"]))
        elif name == "Network.loadingFailed" and not params.get("canceled"):
            self.failures.append((params["errorText"], self.asked[params["requestId"]]["url"]))
        elif name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))

    def open(self, url):
        self.call("Page.navigate", url=url)

    def look(self, width, height, scheme="light"):
        """From now on the window has this size, of a phone if it is narrow, and the user this liking."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1 + phone, mobile=phone
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        """The whole page as a PNG; returns the colour of its first pixel."""
        data = base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        path.write_bytes(data)
        chunks, at = b"", 8
        while at < len(data):
            (size,) = struct.unpack(">I", data[at : at + 4])
            chunks += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
            at += size + 12
        # Whatever the filter of the first line, its first pixel is as it is.
        return tuple(zlib.decompress(chunks)[1:4])

    def evaluate(self, expression):
        """The value of a JavaScript expression; of a promise, what it resolves to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, expression):
        """Waits until an expression is true; while a page loads it may raise, too."""
        tried = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        return eventually(lambda: self.evaluate(tried), PATIENCE, expression)

    def click(self, selector):
        """A press of the mouse in the middle of an element."""
        box = self.evaluate(
            f"(r => ({{x: r.x + r.width / 2, y: r.y + r.height / 2}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)

    def type(self, text):
        """Text at the cursor, as from a keyboard."""
        self.call("Input.insertText", text=text)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.commands)
            os.close(self.answers)
            shutil.rmtree(self.home, ignore_errors=True)
