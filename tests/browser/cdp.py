"""A Chromium that is driven by the DevTools protocol, with nothing but the standard library. Knows targets, pages, keys
and time; nothing of the pages' content. Invariants: every wait has a bound, and the browser ends with this object."""

import base64
import collections
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time

# For what takes milliseconds, on a machine that does other things. Guessed.
PATIENCE = 30.0


class Broken(Exception):
    """What was waited for did not come."""


class Socket:
    """As much of a WebSocket (RFC 6455) as a client on the same machine needs."""

    def __init__(self, port, path):
        self.io = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        self.io.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._more(time.monotonic() + PATIENCE)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Broken(f"no WebSocket: {head!r}")

    def _more(self, deadline):
        self.io.settimeout(max(0.001, deadline - time.monotonic()))
        piece = self.io.recv(1 << 20)
        if not piece:
            raise Broken("the browser closed the connection")
        self.buffer += piece

    def _take(self, length, deadline):
        while len(self.buffer) < length:
            self._more(deadline)
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def send(self, text):
        data, mask = text.encode(), os.urandom(4)
        length = len(data)
        if length < 126:
            head = bytes([0x81, 0x80 | length])
        elif length < 1 << 16:
            head = bytes([0x81, 0xFE]) + struct.pack(">H", length)
        else:
            head = bytes([0x81, 0xFF]) + struct.pack(">Q", length)
        repeated = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
        self.io.sendall(head + mask + masked)

    def receive(self, deadline):
        """A whole message, or None when the time is over before one begins."""
        if not self.buffer:
            try:
                self._more(deadline)
            except (TimeoutError, BlockingIOError):
                return None
        parts = b""
        until = time.monotonic() + PATIENCE
        while True:
            first, second = self._take(2, until)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack(">H", self._take(2, until))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._take(8, until))
            parts += self._take(length, until)
            if first & 0x80:
                return json.loads(parts)


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp(prefix="tidegate-browser")
        flags = ["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--mute-audio"]
        flags += ["--disable-extensions", "--disable-background-networking", "--disable-component-update"]
        if os.geteuid() == 0:
            # Its sandbox refuses to start as the superuser, which builds in containers are.
            flags.append("--no-sandbox")
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        said = os.path.join(self.profile, "DevToolsActivePort")
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                raise Broken(f"the browser ended with {self.process.returncode}")
            try:
                port, path = open(said).read().split("\n")[:2]
                break
            except (OSError, ValueError):
                if time.monotonic() > deadline:
                    raise Broken("the browser does not get ready") from None
                time.sleep(0.05)
        self.socket = Socket(int(port), path)
        self.last = 0
        self.answers = {}
        self.pages = {}
        self.version = self.call("Browser.getVersion")["product"]

    def call(self, method, _session=None, **params):
        self.last += 1
        number = self.last
        message = {"id": number, "method": method, "params": params}
        if _session:
            message["sessionId"] = _session
        self.socket.send(json.dumps(message))
        deadline = time.monotonic() + 2 * PATIENCE
        while number not in self.answers:
            if time.monotonic() > deadline:
                raise Broken(f"{method} is not answered")
            self.pump(deadline)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise Broken(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def pump(self, deadline):
        """Takes the next message, if one comes in time."""
        message = self.socket.receive(deadline)
        if message is None:
            return
        if "id" in message:
            self.answers[message["id"]] = message
            return
        page = self.pages.get(message.get("sessionId"))
        if page is not None:
            page.heard(message["method"], message["params"])

    def person(self):
        """A browser window of its own: nobody's cookies."""
        return self.call("Target.createBrowserContext")["browserContextId"]

    def page(self, person, width=1280, height=800):
        target = self.call("Target.createTarget", url="about:blank", browserContextId=person, newWindow=True)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        page = Page(self, session, target["targetId"])
        self.pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        page.size(width, height)
        return page

    def close(self):
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


class Page:
    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target
        self.events = collections.Counter()
        # What the page complained about: violations of its content policy, exceptions.
        self.complaints = []
        self.paused = []
        self.loaded = set()

    def call(self, method, **params):
        return self.browser.call(method, _session=self.session, **params)

    def heard(self, method, params):
        self.events[method] += 1
        if method == "Log.entryAdded":
            text = params["entry"].get("text", "")
            if "Content Security Policy" in text or params["entry"].get("source") == "security":
                self.complaints.append(text)
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:400])
        elif method == "Page.lifecycleEvent" and params["name"] == "load":
            self.loaded.add(params["loaderId"])
        elif method == "Fetch.requestPaused":
            self.paused.append(params)

    def size(self, width, height, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    def colours(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, expression):
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise Broken(f"{expression[:120]}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    def go(self, url):
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise Broken(f"{url}: {answer['errorText']}")
        # Of this very page: one that was on its way before may load meanwhile.
        self.until(lambda: answer["loaderId"] in self.loaded, f"{url} to load")

    def wait(self, expression, what, seconds=PATIENCE):
        """Until an expression in the page is true; its value."""
        return self.until(lambda: self._try(expression), what, seconds)

    def _try(self, expression):
        try:
            return self.run(expression)
        except Broken as broken:
            # A page that is being left has no context to ask.
            if any(word in str(broken) for word in ("context", "navigated", "null", "undefined")):
                return None
            raise

    def until(self, look, what, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                raise Broken(f"waited {seconds:.0f} s for {what}")
            self.browser.pump(time.monotonic() + 0.05)

    def press(self, key, shift=False):
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "Backspace": (8, "")}
        code, text = codes[key]
        name = "Space" if key == " " else key
        common = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        for letter in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def tab_to(self, expression, what, most=80):
        """Presses Tab until the focused element `e` is the one that is meant."""
        for _ in range(most):
            if self.run(f"(() => {{ const e = document.activeElement; return Boolean({expression}); }})()"):
                return
            self.press("Tab")
        raise Broken(f"{what} is not reached by Tab")

    def html(self):
        """Without any script of ours: what the browser has made of the page."""
        root = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        return self.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.pages.pop(self.session, None)
