"""Promises of spear.clip: the folder of one utterance, what it holds and what it says when something is missing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spear.checkpoint import read_tensors
from spear.clip import Clip, ClipInfo, find_clips
from spear.errors import SpearError

FRAMES = 4
INFO = ClipInfo(
    source="a.mp4", source_sha256="00", source_size=1, source_mtime_ns=1, width=64, height=48, frames=FRAMES,
    crop=[[1.0, 0.0, 2.0, 3.0]] * FRAMES, missing=[2], has_audio=True, speaker="s1", view=None, emotion=None,
    level=None, split="train", split_rule="clip", settings={"face": "largest"},
)  # fmt: skip


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    clip = Clip(tmp_path / "s1_one")
    clip.write_info(INFO)
    return clip


def complaint(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(SpearError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def landmarks(frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    points = np.arange(frames * 131 * 2, dtype=np.float32).reshape(frames, 131, 2)
    return points, np.ones(frames, np.float32)


def test_what_is_written_is_read_and_is_equal_bytes_each_time(clip: Clip, tmp_path: Path) -> None:
    assert Clip(clip.folder).info == INFO
    assert clip.id == "s1_one"
    Clip(tmp_path / "other").write_info(INFO)
    assert (tmp_path / "other" / "clip.json").read_bytes() == clip.info_path.read_bytes()


def test_clip_json_holds_the_checksums_of_what_it_is_about(clip: Clip) -> None:
    clip.face_path.write_bytes(b"face")
    clip.audio_path.write_bytes(b"sound")
    clip.write_info(INFO)
    known = {"face.mp4": hashlib.sha256(b"face").hexdigest(), "audio.wav": hashlib.sha256(b"sound").hexdigest()}
    assert clip.info.files_sha256 == known
    clip.face_path.write_bytes(b"damaged")
    clip.write_info(replace(clip.info, split="val"))
    assert clip.info.files_sha256 == known  # damage is not vouched for


def test_landmarks_come_back(clip: Clip) -> None:
    points, confidence = landmarks()
    clip.write_landmarks(points, confidence, {"detector": "m"})
    clip.require_landmarks()
    back = clip.landmarks()
    assert np.array_equal(back[0], points)
    assert np.array_equal(back[1], confidence)
    assert (back[0].dtype, back[1].dtype) == (np.float32, np.float32)


def test_a_window_of_features_is_read(clip: Clip) -> None:
    features = torch.arange(FRAMES * 3 * 5).reshape(FRAMES, 3, 5).float()
    clip.write_features("hubert", features, {"layers": [6, 12, 24]})
    assert clip.features_path("hubert").name == "hubert.safetensors"
    assert clip.require_features("hubert") == {"layers": [6, 12, 24]}
    assert torch.equal(clip.features("hubert"), features)
    assert torch.equal(clip.features("hubert", 1, 3), features[1:3])


def test_changed_copies_and_silence_stand_beside_the_features(clip: Clip) -> None:
    """Copies have lengths of their own: 4 frames that are told 16 % slower are 5, 19 % faster 3."""
    features, slow, fast, quiet = (torch.full((n, 1, 2), float(n)) for n in (FRAMES, 5, 3, 75))
    slow[:, 0, 0] = torch.arange(5.0)
    clip.write_features("mfcc", features, {"version": 1}, [(slow, 0.84), (fast, 1.19)], quiet)
    assert clip.require_features("mfcc") == {"version": 1}
    assert clip.speeds("mfcc") == [0.84, 1.19]
    assert torch.equal(clip.features("mfcc"), features)
    assert torch.equal(clip.features("mfcc", name="changed0"), slow)
    assert torch.equal(clip.features("mfcc", 1, 3, "changed0"), slow[1:3])
    assert torch.equal(clip.features("mfcc", name="changed1"), fast)
    assert torch.equal(clip.features("mfcc", 0, 10, "silence"), quiet[:10])
    assert clip.features("mfcc", name="changed0").dtype == torch.float32
    assert clip.speech("mfcc").shape == (FRAMES, 1, 2)


def test_features_without_copies_have_no_speeds(clip: Clip) -> None:
    clip.write_features("mfcc", torch.zeros(FRAMES, 1, 2), {})
    assert clip.speeds("mfcc") == []


def test_latents_of_some_frames_are_read(clip: Clip) -> None:
    """In any order, some twice; as float16 on disk, as float32 in memory."""
    picture, masked = torch.arange(FRAMES * 12.0).view(FRAMES, 3, 2, 2), torch.rand(FRAMES, 3, 1, 2)
    clip.write_latents({"picture": picture, "masked": masked}, {"vae": "tiny"})
    assert clip.latents_path.name == "latents.safetensors"
    latents = clip.latents([3, 0, 0])
    assert sorted(latents) == ["masked", "picture"]
    assert torch.equal(latents["picture"], picture[[3, 0, 0]])
    assert torch.equal(latents["masked"], masked[[3, 0, 0]].half().float())
    assert all(value.dtype == torch.float32 for value in latents.values())


def test_of_latents_only_those_rows_are_read(clip: Clip) -> None:
    """Damage elsewhere in the file, which shows where all of it is read, is not met."""
    clip.write_latents({"picture": torch.ones(FRAMES, 3, 2, 2)}, {})
    data = bytearray(clip.latents_path.read_bytes())
    data[-24:] = b"\xff" * 24  # the last frame: 12 numbers of 2 bytes
    clip.latents_path.write_bytes(data)
    assert torch.equal(clip.latents([0, 2])["picture"], torch.ones(2, 3, 2, 2))
    assert clip.latents([3])["picture"].isnan().all()
    with pytest.raises(SpearError, match="is damaged: its checksum does not match"):
        read_tensors(clip.latents_path)


def test_latents_fit_by_clip_and_autoencoder(clip: Clip) -> None:
    clip.write_latents({"picture": torch.zeros(FRAMES, 3, 2, 2)}, {"vae": "tiny", "light": True})
    assert clip.fits(clip.latents_path, {"vae": "tiny", "light": True})
    assert not clip.fits(clip.latents_path, {"vae": "other", "light": True})
    clip.write_info(replace(INFO, source_sha256="11"))
    assert not clip.fits(clip.latents_path, {"vae": "tiny", "light": True})


@pytest.mark.parametrize(
    ("offset", "rows"),
    [(0, [0, 1, 2, 3]), (1, [1, 2, 3, 3]), (3, [3, 3, 3, 3]), (-2, [0, 0, 0, 1]), (9, [3, 3, 3, 3])],
    ids=["in time", "1 late", "3 late", "2 early", "later than the clip is long"],
)
def test_speech_meets_its_pictures(clip: Clip, offset: int, rows: list[int]) -> None:
    """Sound that is late is heard in later rows: frame f has row f + av_offset, held at both ends."""
    features = torch.arange(FRAMES * 3 * 5).reshape(FRAMES, 3, 5).float()
    clip.write_features("hubert", features, {})
    clip.write_info(replace(INFO, av_offset=offset, av_offset_r=0.5))
    assert torch.equal(clip.speech("hubert"), features[rows])
    assert torch.equal(clip.speech("hubert", align=False), features)
    assert clip.speech("hubert").dtype == torch.float32
    for start, stop in ((0, 2), (1, 3), (2, 4), (3, 4)):
        assert torch.equal(clip.speech("hubert", start, stop), features[rows[start:stop]])
        assert torch.equal(clip.speech("hubert", start, stop, align=False), features[start:stop])


def test_an_offset_makes_nothing_stale(clip: Clip) -> None:
    clip.write_features("mfcc", torch.zeros(FRAMES, 1, 2), {"layers": []})
    clip.write_info(replace(INFO, av_offset=5, av_offset_r=0.5))
    assert clip.require_features("mfcc") == {"layers": []}


def test_a_stage_run_too_early_names_the_one_it_needs(clip: Clip, tmp_path: Path) -> None:
    folder = clip.folder
    assert complaint(clip.landmarks) == f"no landmarks.safetensors in {folder}; run `spear landmarks` first"
    assert complaint(clip.require_features, "hubert") == (
        f"no hubert.safetensors in {folder}; run `spear extract-audio-features --encoder hubert` first"
    )
    with pytest.raises(SpearError) as caught:
        _ = Clip(tmp_path / "none").info
    assert str(caught.value) == f"no clip.json in {tmp_path / 'none'}; run `spear preprocess` first"


@pytest.mark.parametrize(
    "change", [{"source_sha256": "11"}, {"settings": {"face": "1"}}], ids=["another video", "other settings"]
)
def test_files_made_before_the_clip_was_preprocessed_anew_are_stale(clip: Clip, change: dict[str, object]) -> None:
    clip.write_landmarks(*landmarks(), {})
    clip.write_features("mfcc", torch.zeros(FRAMES, 1, 2), {})
    clip.write_info(replace(INFO, **change))  # type: ignore[arg-type]
    assert complaint(clip.landmarks) == (
        f"{clip.landmarks_path} was made before the clip was preprocessed anew; run `spear landmarks` again"
    )
    assert complaint(clip.require_features, "mfcc") == (
        f"{clip.features_path('mfcc')} was made before the clip was preprocessed anew; "
        "run `spear extract-audio-features --encoder mfcc` again"
    )


def test_another_split_makes_nothing_stale(clip: Clip) -> None:
    clip.write_landmarks(*landmarks(), {})
    clip.write_info(replace(INFO, split="test"))
    clip.require_landmarks()
    assert clip.fits(clip.landmarks_path, {})


def test_a_derived_file_fits_by_clip_and_settings(clip: Clip) -> None:
    path = clip.landmarks_path
    assert not clip.fits(path, {"detector": "m"})
    clip.write_landmarks(*landmarks(), {"detector": "m"})
    assert clip.fits(path, {"detector": "m"})
    assert not clip.fits(path, {"detector": "other"})
    path.write_bytes(b"damaged")
    assert not clip.fits(path, {"detector": "m"})


def test_landmarks_of_another_length_are_refused(clip: Clip) -> None:
    clip.write_landmarks(*landmarks(FRAMES + 1), {})
    assert complaint(clip.landmarks) == f"{clip.landmarks_path} has shape (5, 131, 2); run `spear landmarks` again"


def test_a_clip_json_that_spear_did_not_write_gets_one_line(clip: Clip) -> None:
    path = clip.info_path
    for text, message in {
        '{"format": 1}': f"{path} has format 1, this spear reads 2; run `spear preprocess` again",
        "[]": f"{path} has format none, this spear reads 2; run `spear preprocess` again",
    }.items():
        path.write_text(text)
        with pytest.raises(SpearError) as caught:
            _ = Clip(clip.folder).info
        assert str(caught.value) == message
    path.write_text('{"format": 2, "frames": 3}')
    with pytest.raises(SpearError, match=r"clip\.json is damaged \(.*\); run `spear preprocess` again$"):
        _ = Clip(clip.folder).info


def test_clips_are_found_sorted_and_by_split(tmp_path: Path) -> None:
    for name, split in (("b", "train"), ("a", "test"), ("c", "train")):
        Clip(tmp_path / name).write_info(replace(INFO, split=split))
    (tmp_path / "half").mkdir()  # no clip.json: preprocess did not come to its end
    assert [clip.id for clip in find_clips(tmp_path)] == ["a", "b", "c"]
    assert [clip.id for clip in find_clips(tmp_path, "train")] == ["b", "c"]
    assert complaint(find_clips, tmp_path, "val") == (
        f"no clip of the val split in {tmp_path}; preprocess more videos, at least three"
    )
    where = "run `spear preprocess VIDEOS` first, or give the folder with --clips"
    assert complaint(find_clips, tmp_path / "half") == f"no clips in {tmp_path / 'half'}; {where}"
    assert complaint(find_clips, tmp_path / "none") == f"{tmp_path / 'none'} is not a folder; {where}"
