"""The folder of one clip: names, shapes, reading, whole-or-absent writing. No other file builds a path inside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spear.checkpoint import save_tensors
from spear.clip_info import FORMAT, FPS, ClipInfo, Facts, check_types, info_digest, without_crop
from spear.errors import SpearError
from spear.files import read_json, require_text, sha256_of, write_json
from spear.points import N_POINTS
from spear.storage import InFolder, Storage, Window, index_forgotten, require_finite

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
CROP = 256
"""Side of the face crop, px."""
SPLITS = ("train", "val", "test")


class Clip:
    """One utterance on disk: clips/<id>/ with clip.json, face.mp4, audio.wav and what later stages add.

    storage: how its files are reached where they are not in the folder. facts: where an index has told them.
    """

    def __init__(self, folder: Path, storage: Storage | None = None, facts: Facts | None = None) -> None:
        self.folder, self.storage = Path(folder), storage or InFolder()
        if facts is not None:
            self.__dict__["facts"] = facts

    def __repr__(self) -> str:
        return f"Clip({self.folder})"

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def info_path(self) -> Path:
        """Written last: it says that all is there."""
        return self.folder / "clip.json"

    @property
    def face_path(self) -> Path:
        """The crop, 256x256 at 25 fps."""
        return self.folder / "face.mp4"

    @property
    def audio_path(self) -> Path:
        """16 kHz mono; absent where there is no sound."""
        return self.folder / "audio.wav"

    @property
    def landmarks_path(self) -> Path:
        """What `spear landmarks` finds."""
        return self.folder / "landmarks.safetensors"

    @property
    def latents_path(self) -> Path:
        """What `--cache-latents` keeps."""
        return self.folder / "latents.safetensors"

    def features_path(self, encoder: str) -> Path:
        """Where the features of one audio encoder stand. Raises SpearError for a name that leads out of the folder."""
        if not re.fullmatch(r"[\w-][\w.-]*", encoder):
            raise SpearError(f"{encoder!r} is no name of an audio encoder; give a model or --encoder that has one")
        return self.folder / f"{encoder}.safetensors"

    @cached_property
    def info(self) -> ClipInfo:
        """The parsed clip.json. Raises SpearError where it is absent, damaged or of another format."""
        return self._read_info(lambda text: text)

    def brief(self) -> ClipInfo:
        """The same with an empty crop, in a tenth of the time, not kept: for many clips. Raises SpearError as well."""
        return self.__dict__.get("info") or self._read_info(without_crop)

    def _read_info(self, shorten: Callable[[bytes], bytes]) -> ClipInfo:
        try:
            value = json.loads(shorten(self.info_path.read_bytes()))
        except FileNotFoundError:
            raise SpearError(f"no clip.json in {self.folder}; run `spear preprocess` first") from None
        except (OSError, ValueError, RecursionError):
            value = read_json(self.info_path)  # which says what is wrong
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else "none"
            raise SpearError(
                f"{self.info_path} has format {found}, this spear reads {FORMAT}; run `spear preprocess` again"
            )
        try:
            info = ClipInfo(**{name: part for name, part in value.items() if name != "sha256"})
            check_types(info)
            return info
        except TypeError as error:
            raise SpearError(f"{self.info_path} is damaged ({error}); run `spear preprocess` again") from error

    @cached_property
    def facts(self) -> Facts:
        """From clip.json, unless an index has told them. Raises SpearError as `info` does."""
        info = self.brief()
        known = [info.source_sha256, info.frames, info.settings, *([info.sound["sha256"]] if info.sound else [])]
        fingerprint = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
        return Facts(info.frames, info.speaker, info.split, info.has_audio, info.av_offset, fingerprint)

    @property
    def fingerprint(self) -> str:
        """Changes when the clip was preprocessed anew from other input or with other settings."""
        return self.facts.fingerprint

    def write_info(self, info: ClipInfo) -> None:
        """Write clip.json, after face.mp4 and audio.wav: it says that all is there. Their checksums are added if they
        are not known yet, and its own."""
        if not info.files_sha256:
            there = [path for path in (self.face_path, self.audio_path) if path.exists()]
            info = replace(info, files_sha256={path.name: sha256_of(path) for path in there})
        value = asdict(info)
        with index_forgotten(self.folder.parent):
            write_json(self.info_path, {**value, "sha256": info_digest(value)})
        self.__dict__.pop("info", None)
        self.__dict__.pop("facts", None)

    def remove_info(self) -> None:
        """Take clip.json away before face.mp4 and audio.wav change: then the clip is none."""
        with index_forgotten(self.folder.parent):
            self.info_path.unlink(missing_ok=True)

    def fits(self, path: Path, settings: dict[str, Any]) -> bool:
        """Whether a derived file exists, was made from this clip as it stands, and with these settings."""
        if not self.storage.exists(path):
            return False
        try:
            about = self.storage.about(path)
        except SpearError:
            return False  # damaged: the stage makes it again
        return bool(about.get("clip") == self.fingerprint and about.get("settings") == settings)

    def write_landmarks(
        self, points: NDArray[np.float32], confidence: NDArray[np.float32], settings: dict[str, Any]
    ) -> None:
        """points: (F, 131, 2) float32 in crop px; confidence: (F,) in 0..1, 0 where the face was not found."""
        tensors = {"points": torch.from_numpy(points), "confidence": torch.from_numpy(confidence)}
        self._write(self.landmarks_path, tensors, {"settings": settings})

    def landmarks(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """points (F, 131, 2) in crop px and confidence (F,). Raises SpearError where they are absent or stale."""
        self.require_landmarks()
        tensors = self.storage.tensors(self.landmarks_path)
        points, confidence = tensors["points"].numpy(), tensors["confidence"].numpy()
        if points.shape != (self.facts.frames, N_POINTS, 2):
            raise SpearError(f"{self.landmarks_path} has shape {points.shape}; run `spear landmarks` again")
        require_finite(self.landmarks_path, tensors["points"])
        require_finite(self.landmarks_path, tensors["confidence"][:, None])
        return points, confidence

    def write_features(
        self,
        encoder: str,
        features: torch.Tensor,
        settings: dict[str, Any],
        changed: Sequence[tuple[torch.Tensor, float]] = (),
        silence: torch.Tensor | None = None,
    ) -> None:
        """features: (F, L, W) of one audio encoder at 25 fps; stored as float16. changed: the same of changed
        copies of the speech, and how many times faster each is; silence: of a moment in which nobody speaks."""
        about = {"settings": settings, "encoder": encoder, "speeds": [s for _, s in changed]}
        tensors = {"features": features, **{f"changed{i}": copy for i, (copy, _) in enumerate(changed)}}
        if silence is not None:
            tensors["silence"] = silence
        tensors = {name: value.to(torch.float16) for name, value in tensors.items()}
        self._write(self.features_path(encoder), tensors, about)

    def speeds(self, encoder: str) -> list[float]:
        """How many times faster each changed copy of the speech is; none where the features were made without."""
        if (known := self.facts.speeds) is not None:
            return known[encoder]
        return [float(speed) for speed in self.storage.about(self.features_path(encoder)).get("speeds", [])]

    def features(self, encoder: str, start: int = 0, stop: int | None = None, name: str = "features") -> torch.Tensor:
        """Frames start..stop of the features, (F, L, W) float32; only that window is read from disk.

        name: or of a changed copy, `changed0`, `changed1` ..., or `silence`. The caller has checked with
        require_features that they are there and fit.
        """
        part = self._window(self.features_path(encoder), _features_command(encoder)).rows(name, start, stop)
        require_finite(self.features_path(encoder), part, start, "" if name == "features" else f" of {name}")
        return part

    def speech(self, encoder: str, start: int = 0, stop: int | None = None, align: bool = True) -> torch.Tensor:
        """What is heard while video frames start..stop are seen, (stop - start, L, W) float32; only that is read.

        align: frame f has the features of row f + av_offset, so that late or early sound meets its pictures. The first
        and the last row are held beyond the edges. The caller has checked with require_features.
        """
        shift = self.facts.av_offset if align else 0
        rows = torch.arange(start, self.facts.frames if stop is None else stop) + shift
        rows = rows.clamp(0, self.facts.frames - 1)
        first = int(rows[0])
        return self.features(encoder, first, int(rows[-1]) + 1)[rows - first]

    def write_latents(self, latents: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
        """Latents of every frame by name, (F, C, h, w) each, stored as float16."""
        tensors = {name: value.to(torch.float16) for name, value in latents.items()}
        self._write(self.latents_path, tensors, {"settings": settings})

    def latents(self, frames: list[int]) -> dict[str, torch.Tensor]:
        """Latents of these frames by name, (N, C, h, w) float32 each; only they are read from disk. The caller has
        checked with `fits` that they are there."""
        file = self._window(self.latents_path, "spear train-lm2face --cache-latents")
        return {name: torch.cat([file.rows(name, i, i + 1) for i in frames]) for name in file.names}

    def require_landmarks(self) -> None:
        """Raises SpearError where the landmarks are absent or were made from an older clip."""
        self._require(self.landmarks_path, "spear landmarks")

    def require_features(self, encoder: str) -> dict[str, Any]:
        """The settings that the features were made with. Raises SpearError where they are absent or stale."""
        path = self.features_path(encoder)
        return dict(self._require(path, _features_command(encoder))["settings"])

    def _require(self, path: Path, command: str) -> dict[str, Any]:
        return self._window(path, command).about

    def _window(self, path: Path, command: str) -> Window:
        """A tensor file of this clip as it stands. Raises SpearError, naming the command that makes it."""
        if not self.storage.exists(path):
            raise SpearError(f"no {path.name} in {self.folder}; run `{command}` first")
        window = self.storage.window(path)
        if window.about.get("clip") != self.fingerprint:
            raise SpearError(f"{path} was made before the clip was preprocessed anew; run `{command}` again")
        return window

    def _write(self, path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
        if not isinstance(self.storage, InFolder):
            raise SpearError(f"cannot write {path}: it is packed; do it in the folder it came from, then pack again")
        with index_forgotten(self.folder.parent):
            save_tensors(path, tensors, {"clip": self.fingerprint, **about})


def _features_command(encoder: str) -> str:
    return f"spear extract-audio-features --encoder {encoder}"


def find_clips(root: Path, split: str | None = None) -> list[Clip]:
    """All whole clips below clips/, sorted by id; of one split if given. Raises SpearError where there are none."""
    root = Path(root)
    if not root.is_dir():
        raise SpearError(
            f"{root} is not a folder; run `spear preprocess VIDEOS` first, or give the folder with --clips"
        )
    require_text(root)
    clips = [Clip(path.parent) for path in sorted(root.glob("*/clip.json"))]
    if not clips:
        raise SpearError(f"no clips in {root}; run `spear preprocess VIDEOS` first, or give the folder with --clips")
    if split is None:
        return clips
    chosen = [clip for clip in clips if clip.brief().split == split]
    if not chosen:
        raise SpearError(f"no clip of the {split} split in {root}; preprocess more videos, at least three")
    return chosen
