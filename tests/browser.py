"""A headless Chromium, driven through its DevTools protocol: what a page does, not only what is written in it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

START_LIMIT, ANSWER_LIMIT = 15.0, 10.0
"""Seconds until a test fails rather than hangs."""
_LARGEST = 1 << 28
"""Bytes of one message: a screenshot is one."""


def chromium() -> str | None:
    """Where the browser is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in a browser of its own, with an empty profile; a context manager, after which nothing of it runs."""

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        """Everything that the page told, in order: requests, exceptions, console lines."""
        self._loop = asyncio.new_event_loop()
        self._socket: WebSocketClientConnection | None = None
        self._count, self._session = 0, ""
        program = chromium()
        assert program is not None
        self._process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}",
             "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
             "--disable-breakpad", "--disable-component-update", "--mute-audio", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self._connect(profile / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise

    def _connect(self, file: Path) -> None:
        def found() -> list[str] | None:
            assert self._process.poll() is None, "the browser ended before it had begun"
            lines = file.read_text().splitlines() if file.is_file() else []
            return lines if len(lines) == 2 else None  # it may be half written

        port, path = _until(found, START_LIMIT)
        self._socket = self._run(_connected(f"ws://127.0.0.1:{port}{path}"))
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def _run(self, task: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(task, ANSWER_LIMIT))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; what the page tells meanwhile is added to `events`."""
        return self._run(self._send(method, params))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._socket is not None
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        await self._socket.write_message(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser has gone"
            answer = json.loads(text)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path) -> None:
        """Load a file and wait until it is there."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it is, as if a person had clicked."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer.get("exceptionDetails")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = ANSWER_LIMIT) -> Any:
        """The value of an expression once it is true. Raises AssertionError after `seconds`."""
        return _until(lambda: self.evaluate(expression), seconds, expression)

    def told(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of one kind so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, px, and whether the system's colours are dark."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and all that it started."""
        if self._socket is not None:
            self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(ANSWER_LIMIT)
        self._loop.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _connected(url: str) -> WebSocketClientConnection:
    """Called inside the loop: tornado asks for the one that runs."""
    return await websocket_connect(url, max_message_size=_LARGEST)


def _until(found: Callable[[], Any], seconds: float, what: str = "") -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"not within {seconds} s: {what or 'the start of the browser'}"
        time.sleep(0.05)
    return value
