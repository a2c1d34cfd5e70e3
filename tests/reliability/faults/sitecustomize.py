"""Makes single clips deadly, in every process that has this folder in PYTHONPATH.

$DEADLY: what they do, crash, hang or hoard. Deadly is the clip that is called `bad`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from typing import Any

_PLACES = {
    "spear.stages.preprocess": "_preprocess_one",
    "spear.stages.landmarks": "_detect_clip",
    "spear.stages.extract_audio_features": "_extract",
}
"""Module -> its function of one clip."""


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the module be found by the others, and change it as soon as it is loaded."""
        if name not in _PLACES:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        load = spec.loader.exec_module  # type: ignore[union-attr]

        def load_and_change(module: Any) -> None:
            load(module)
            _change(module, _PLACES[name])

        spec.loader.exec_module = load_and_change  # type: ignore[union-attr, method-assign]
        return spec


def _change(module: Any, name: str) -> None:
    work = getattr(module, name)

    def deadly(item: Any, *args: Any, **options: Any) -> Any:
        if _id(item) == "bad":
            _die(os.environ["DEADLY"])
        return work(item, *args, **options)

    deadly.__module__, deadly.__qualname__ = work.__module__, work.__qualname__
    setattr(module, name, deadly)


def _id(item: Any) -> str:
    return item if isinstance(item, str) else getattr(item, "id", "") or item.source.id


def _die(how: str) -> None:
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Event().wait()
    hoard = []
    while True:
        hoard.append(bytearray(50_000_000))


if "DEADLY" in os.environ:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
