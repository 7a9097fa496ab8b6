"""Pages in headless Chromium, where it is installed: what it makes of them, and what it refuses."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def opened(page: Path, *, profile: Path, milliseconds: int = 4000) -> tuple[str, str]:
    """The document after its scripts have run, and what the browser logged."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--window-size=1200,900"]
    options += [f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, check=True, timeout=300)
    log = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    return done.stdout, "\n".join(log)


def with_script(html: str, script: str) -> str:
    """The page without its policy, with a script of the test's at its end."""
    start = html.index('<meta http-equiv="Content-Security-Policy"')
    html = html[:start] + html[html.index(">", start) + 1 :]
    return html.replace("</body>", f"<script>{script.replace('</', chr(60) + chr(92) + '/')}</script></body>")


class Browser:
    """One page of a headless Chromium that is told what to do through a pipe, by the DevTools protocol.

    Attributes:
        log: what the page wrote to its console, errors and refused requests.
        asked: the addresses that it asked for.
    """

    def __init__(self, profile: Path, width: int = 1280, height: int = 900) -> None:
        told, tell = os.pipe()
        heard, hear = os.pipe()
        # The browser reads from its descriptor 3 and writes to 4.
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "--disable-background-networking",
            "about:blank",
        ]
        script = f'exec 3<&{told} 4>&{hear}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(told, hear),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(told)
        os.close(hear)
        self._tell, self._heard = os.fdopen(tell, "wb", 0), os.fdopen(heard, "rb", 0)
        self._rest, self._count, self._session = b"", 0, None
        self.log: list[str] = []
        self.asked: list[str] = []
        target = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Have the browser do something; its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._tell.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._heard], [], [], 60)
            assert ready, "the browser says nothing"
            part = os.read(self._heard.fileno(), 2**16)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        event = json.loads(text)
        method, told = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded":
            self.log.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.log.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        return event

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise what it is kept with."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return value

    def press(self, key: str, text: str = "") -> None:
        """Press a key, as on the keyboard."""
        code = {"Enter": 13, "Tab": 9, " ": 32}.get(key, 0)
        text = text or {"Enter": "\r"}.get(key, "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """A picture of the page in a window of a size, and in a theme."""
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        )
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        time.sleep(0.5)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        with suppress(AssertionError, OSError):
            self.call("Browser.close")
        self._process.wait(20)
        self._tell.close()
        self._heard.close()
