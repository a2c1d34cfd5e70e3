"""Finding one face and following it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np

from spear.errors import SpearError, UnusableClip
from spear.pipeline import in_order
from spear.points import MESH_INDICES, Array, face_width
from spear.video import Footage, Frame

DETECTOR = "mediapipe 0.10.21 face mesh, refined, tracking"
_MAX_FACES = 5
_COMES_BACK = 5
"""Frames after which a lost face that was alone may reappear one more face width away."""
_MOST_MISSING = 0.5
"""With a face in fewer than this share of the frames, a clip is more guess than footage."""

_NATIVE = threading.RLock()
"""Held by the thread that is in MediaPipe: two at once, even with a mesh each, crash or get other points."""

_NOT_WANTED = ("sounddevice", "matplotlib.pyplot")
"""What MediaPipe imports beside its face mesh: half a second, a C compiler that looks for a sound card's library and
leaves files in /tmp where it is killed, and a cache of all fonts."""


class FaceTracker:
    """Follows one face through a video with MediaPipe's face mesh: frames in, 131 points out; a context manager.

    choice: "largest", or the number of the face from the left, counted in the first frame that shows it.
    """

    def __init__(self, choice: str | int = "largest") -> None:
        """Raises SpearError for a choice that is neither `largest` nor a number from 0 on."""
        if choice != "largest" and not str(choice).isdecimal():
            raise SpearError(f"--face {choice} is neither `largest` nor a number from 0 on (0 is the leftmost face)")
        self._choice = choice
        self._meshes = contextlib.ExitStack()
        self._finder: Any = None
        self._mesh: Any = None
        self._last: Array | None = None
        self._lost = 0
        self._warm = False
        self.faces_seen = 0
        """Faces in the frame where the tracking started."""

    def __enter__(self) -> FaceTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meshes.close()

    def __call__(self, frame: Frame) -> Array | None:
        """The 131 points, (131, 2) float32 px of this frame (H, W, 3), or None where the face is not found."""
        if self._mesh is None and not self._start(frame):
            return None
        with contextlib.nullcontext() if self._warm else silent_stderr():  # the first face makes the C++ side warn
            faces = _faces(self._mesh, frame)
        self._warm = self._warm or bool(faces)
        last = self._last
        assert last is not None  # _start has found it
        far = [float(np.linalg.norm(points.mean(0) - last.mean(0))) for points in faces]
        # a face that was alone may come back elsewhere, the later the farther; among several, another is no substitute
        reach = 1 + self._lost / _COMES_BACK if self.faces_seen == 1 else 1
        if not far or min(far) > reach * float(face_width(last)):
            self._lost += 1
            return None
        self._last, self._lost = faces[int(np.argmin(far))], 0
        return self._last

    def _start(self, frame: Frame) -> bool:
        if self._finder is None:
            self._finder = self._meshes.enter_context(_face_mesh(static_image_mode=True, max_num_faces=_MAX_FACES))
        with silent_stderr():
            faces = sorted(_faces(self._finder, frame), key=lambda points: float(points[:, 0].mean()))
        self.faces_seen = max(self.faces_seen, len(faces))
        if self._choice == "largest":
            self._last = max(faces, key=lambda points: float(face_width(points)), default=None)
        elif int(self._choice) < len(faces):
            self._last = faces[int(self._choice)]
        if self._last is None:
            return False
        followed = 1 if len(faces) == 1 else _MAX_FACES
        self._mesh = self._meshes.enter_context(_face_mesh(static_image_mode=False, max_num_faces=followed))
        return True


@contextlib.contextmanager
def _face_mesh(**options: Any) -> Iterator[Any]:
    os.environ.setdefault("GLOG_minloglevel", "3")  # read when mediapipe's library is loaded
    with silent_stderr():  # its C++ side greets on stderr whatever the log level
        with _without(*_NOT_WANTED):
            from mediapipe.python.solutions.face_mesh import FaceMesh

        mesh = FaceMesh(refine_landmarks=True, **options)
        mesh.process(np.zeros((64, 64, 3), np.uint8))
    try:
        yield mesh
    finally:
        mesh.close()


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Give empty modules to whoever imports these, unless they are there already."""
    stand_ins = {name: ModuleType(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment: C++ libraries write there past Python's logging."""
    with _NATIVE:  # two threads at once would each put back what the other had set
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)


def _faces(mesh: Any, frame: Frame) -> list[Array]:
    height, width = frame.shape[:2]
    with _NATIVE:
        found = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks or []
    size = np.array([width, height], np.float32)
    return [
        np.array([(face.landmark[i].x, face.landmark[i].y) for i in MESH_INDICES], np.float32) * size for face in found
    ]


class Found(NamedTuple):
    """A face in the first frames of footage: its points (131, 2) in each, px, None where it is not seen; how many faces
    there were where the tracking started."""

    points: list[Array | None]
    faces_seen: int


def find_face(
    footage: Footage, choice: str, stop: int | None = None, seen: Callable[[int], None] = lambda _: None
) -> Found:
    """Look for a face in each of the first `stop` frames. seen: told how many are done."""
    found: list[Array | None] = []
    with FaceTracker(choice) as tracker, in_order(tracker, footage.frames(0, stop), workers=1, ahead=4) as all_points:
        for points in all_points:
            found.append(points)
            seen(len(found))
    return Found(found, tracker.faces_seen)


def follow_face(
    footage: Footage,
    choice: str,
    on_missing: str,
    stop: int | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> tuple[Array, list[int]]:
    """Follow a face through the first `stop` frames: points (F, 131, 2) frame px, and the frames that did not show it.

    on_missing: `hold` interpolates over those, anything else refuses. seen: told how many frames are done.
    Raises UnusableClip where the face is in no frame, in too few, or not in all though asked.
    """
    return steady_face(find_face(footage, choice, stop, seen), footage, choice, on_missing)


def steady_face(face: Found, footage: Footage, choice: str, on_missing: str) -> tuple[Array, list[int]]:
    """What `follow_face` makes of a face that was found: returns and raises the same."""
    found = face.points
    missing = [i for i, points in enumerate(found) if points is None]
    if len(missing) == len(found) and face.faces_seen:
        raise UnusableClip(
            f"{footage.path} has no face number {choice}; it shows {face.faces_seen}: give --face largest, "
            f"or a number below {face.faces_seen}"
        )
    if len(missing) == len(found):
        raise UnusableClip(
            f"{footage.path} shows no face in any of {len(found)} frames; give footage with a visible face"
        )
    if missing and on_missing != "hold":
        raise UnusableClip(
            f"{footage.path} shows no face in {len(missing)} of {len(found)} frames, first in frame {missing[0]}; "
            "use --on-missing-face hold to interpolate"
        )
    if len(missing) > _MOST_MISSING * len(found):
        raise UnusableClip(
            f"{footage.path} shows a face in only {len(found) - len(missing)} of {len(found)} frames; cut the rest away"
        )
    return fill_missing(found), missing


def fill_missing(points: list[Array | None]) -> Array:
    """Interpolate in time over frames without a face: (F, 131, 2). Raises ValueError where no frame has one."""
    known = [i for i, p in enumerate(points) if p is not None]
    if not known:
        raise ValueError("no frame has a face")
    values = np.stack([p for p in points if p is not None]).reshape(len(known), -1)
    frames = np.arange(len(points))
    filled = np.empty((len(points), values.shape[1]), np.float32)
    for column, seen in zip(filled.T, values.T, strict=True):
        column[:] = np.interp(frames, known, seen)
    return filled.reshape(len(points), -1, 2)
