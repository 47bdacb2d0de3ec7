"""A headless Chromium, by the WebDriver that comes with it, for the scripts beside this that look at pages."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 60


class Browser:
    """A window, by the WebDriver protocol."""

    def __init__(self, port: int, arguments: list[str]) -> None:
        self.at = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]}
        said = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.post("/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **said}}})["sessionId"]

    def post(self, path: str, body: dict, method: str = "POST") -> dict:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.at + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def of(self, path: str, body: dict | None = None, method: str = "POST"):
        return self.post(f"/session/{self.session}{path}", body or {}, method)

    def open(self, url: str) -> None:
        self.of("/url", {"url": url})

    def run(self, script: str):
        return self.of("/execute/sync", {"script": f"return {script}", "args": []})

    def picture(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self.of("/screenshot", method="GET")))

    def size(self, width: int, height: int) -> None:
        self.of("/window/rect", {"width": width, "height": height})

    def tool(self, command: str, **parameters: object):
        """What WebDriver has no word for, by the protocol of Chromium's own tools."""
        return self.of("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width: int, height: int, is_phone: bool = False) -> None:
        """The page is laid out for a screen of this size; a window can't be as narrow as a phone."""
        self.tool("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone)

    def whole_picture(self, path: pathlib.Path, width: int, is_phone: bool = False) -> None:
        """The page from its beginning to its end, on a screen that is as high as that."""
        self.screen(width, self.run("document.documentElement.scrollHeight"), is_phone)
        # It is drawn anew for such a screen.
        time.sleep(0.5)
        self.picture(path)

    def paper(self) -> bytes:
        """The page as a PDF, on A4 with the margins that it asks for itself."""
        asked = {"page": {"width": 21.0, "height": 29.7}, "margin": {"top": 1.2, "bottom": 1.2, "left": 1.2, "right": 1.2}, "background": False}
        return base64.b64decode(self.of("/print", asked))

    def complaints(self) -> list[str]:
        """What the console got since it was last asked: errors of scripts, and what could not be loaded."""
        return [entry["message"] for entry in self.of("/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]

    def close(self) -> None:
        self.of("", method="DELETE")


def brought() -> None:
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit("there is no chromium with its chromedriver on PATH: install both, as by apt-get install chromium chromium-driver")
    for command in (["update", "--quiet"], ["install", "--quiet", "--yes", "--no-install-recommends", "chromium", "chromium-driver"]):
        subprocess.run(["apt-get", *command], check=True, stdout=subprocess.DEVNULL)


def until(what: str, holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(urllib.error.URLError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"within {PATIENCE} s the page did not show {what}")
        time.sleep(0.1)
