"""Latents that are kept beside the clips: what they are of, when they are made, and that nothing is lost by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import make_clip, track
from tiny_nets import tiny_lm2face

from spear.clip import Clip
from spear.face_pairs import ClipFaces, FacePairs, read_faces
from spear.latents import keep_latents
from spear.nets.lm2face import Lm2Face, image_tensor, sketch_tensor
from spear.painter import half_precision

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("light", [True, False], ids=["small", "paper"])


def _keep(clips: list[Clip], net: Lm2Face) -> list[tuple[int, int, str]]:
    """Returns what was said of the progress."""
    said: list[tuple[int, int, str]] = []
    keep_latents(clips, net, CPU, lambda *words: said.append(words))
    return said


def _assert_close(value: torch.Tensor, expected: torch.Tensor) -> None:
    """But for the rounding to float16, and of a CPU that has bf16, which hangs on the size of the batch."""
    torch.testing.assert_close(value, expected.float(), atol=0.02 * expected.abs().max().item(), rtol=0.01)


@BOTH
def test_latents_of_every_frame_are_kept(light: bool, tmp_path: Path) -> None:
    """Of more frames than are encoded at once, 16, on disk as float16."""
    net, clip = tiny_lm2face(light), make_clip(tmp_path / "a", 18 if light else 3)
    assert _keep([clip], net) == [(0, 1, "encoding a")]
    frames = list(range(clip.info.frames))
    images, (points, _) = image_tensor(read_faces(clip, frames)), clip.landmarks()
    with half_precision(CPU):
        expected = {"picture": net.encode_picture(images), "masked": net.encode_masked(images)}
        if not light:  # the small preset's sketches need no encoder
            expected["sketch"] = net.encode_sketch(sketch_tensor(points))
    latents = clip.latents(frames)
    assert latents.keys() == expected.keys()
    for name, value in expected.items():
        _assert_close(latents[name], value)


@BOTH
def test_references_from_kept_latents_are_those_from_pictures(light: bool, tmp_path: Path) -> None:
    """The same sample, with and without."""
    net, clip = tiny_lm2face(light), make_clip(tmp_path / "a", 5)
    _keep([clip], net)
    kept, plain = (
        FacePairs([ClipFaces(clip, use)], net.config, per_clip=1, seed=0, augment=False)[3, 0] for use in (True, False)
    )
    assert kept.keys() - plain.keys() == {f"latent_{name}" for name in clip.latents([0])}
    batch = {name: value[None] for name, value in plain.items()}
    drawn = batch["ref_images"], batch["ref_points"], batch["ref_sketches"], batch["ref_nearness"]
    with half_precision(CPU):
        expected, masked = net.make_references(*drawn), net.encode_masked(batch["target"])
    latents = kept["latent_picture"][None, 1:]
    sketches = kept["latent_sketch"][None, 1:] if not light else expected.sketches
    result = net.gather_references(latents, sketches, drawn[1], drawn[0], drawn[3])
    for value, wanted in (*zip(result[:5], expected[:5], strict=True), (kept["latent_masked"][None, 0], masked)):
        _assert_close(value, wanted)


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    net, clips = tiny_lm2face(light=True), [make_clip(tmp_path / name, 3, seed) for seed, name in enumerate("ab")]
    assert _keep(clips, net) == [(0, 2, "encoding a"), (1, 2, "encoding b")]
    before = [(clip.latents_path.read_bytes(), clip.latents_path.stat().st_mtime_ns) for clip in clips]
    assert _keep(clips, net) == []
    assert [(clip.latents_path.read_bytes(), clip.latents_path.stat().st_mtime_ns) for clip in clips] == before
    clips[1].latents_path.unlink()
    assert _keep(clips, net) == [(0, 1, "encoding b")]
    assert [clip.latents_path.read_bytes() for clip in clips] == [content for content, _ in before]


def test_another_autoencoder_and_another_clip_are_noticed(tmp_path: Path) -> None:
    net, clip = tiny_lm2face(light=True), make_clip(tmp_path / "a", 3)
    _keep([clip], net)
    net.config = replace(net.config, vae="other")
    assert len(_keep([clip], net)) == 1
    assert _keep([clip], net) == []
    net.config = net.config.with_bank(2)  # how many references there are tells nothing of latents
    assert _keep([clip], net) == []
    points, confidence = clip.landmarks()
    clip.write_info(replace(clip.info, source_sha256="1"))
    clip.write_landmarks(points, confidence, {})
    assert len(_keep([clip], net)) == 1
    data = clip.latents_path.read_bytes()
    clip.latents_path.write_bytes(data[: len(data) // 2])
    assert len(_keep([clip], net)) == 1
    assert clip.latents_path.read_bytes() == data


def test_other_landmarks_make_the_paper_s_sketches_anew(tmp_path: Path) -> None:
    """`spear landmarks --detector` other than before: kept sketches must not be those of the old points."""
    net, clip = tiny_lm2face(light=False), make_clip(tmp_path / "a", 2)
    _keep([clip], net)
    other = track(2, seed=7)
    clip.write_landmarks(other, np.ones(2, np.float32), {"detector": "another"})
    _keep([clip], net)
    with half_precision(CPU):
        expected = net.encode_sketch(sketch_tensor(other))
    _assert_close(clip.latents([0, 1])["sketch"], expected)


def test_latents_are_whole_or_absent(tmp_path: Path) -> None:
    """A run that is stopped while it encodes leaves the clips that are done and no part of a file."""
    net, clips = tiny_lm2face(light=True), [make_clip(tmp_path / name, 3, seed) for seed, name in enumerate("ab")]

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_latents(clips, net, CPU, stop)
    assert [clip.latents_path.exists() for clip in clips] == [True, False]
    assert _keep(clips, net) == [(0, 1, "encoding b")]
