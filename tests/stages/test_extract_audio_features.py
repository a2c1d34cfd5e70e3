"""`spear extract-audio-features`: every clip with sound gets its features, once, and nothing is dropped in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spear.audio import write_wav
from spear.clip import Clip, ClipInfo
from spear.errors import SpearError
from spear.pretrained.audio_encoders import load_encoder
from spear.pretrained.mfcc import Mfcc
from spear.stages import extract_audio_features as stage
from spear.stages.extract_audio_features import extract_audio_features


def make_clip(root: Path, name: str, frames: int = 10, seconds: float | None = None, **info: Any) -> Clip:
    """A clip folder without pictures; seconds None means no sound."""
    clip = Clip(root / name)
    clip.folder.mkdir(parents=True)
    if seconds is not None:
        samples = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16_000))
        write_wav(clip.audio_path, samples.astype(np.float32))
    clip.write_info(
        ClipInfo(
            **{
                "source": f"{name}.mp4", "source_sha256": name, "source_size": 1, "source_mtime_ns": 1, "width": 360,
                "height": 288, "frames": frames, "crop": [[1.0, 0.0, 0.0, 0.0]] * frames, "missing": [],
                "has_audio": seconds is not None, "speaker": "s1", "view": None, "emotion": None, "level": None,
                "split": "train", "split_rule": "all", **info,
            }
        )
    )  # fmt: skip
    return clip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what the encoder was given."""
    seen: list[int] = []
    compute = Mfcc.__call__

    def counted(self: Mfcc, samples: torch.Tensor) -> torch.Tensor:
        seen.append(len(samples))
        return compute(self, samples)

    monkeypatch.setattr(Mfcc, "__call__", counted)
    return seen


def test_features_have_one_row_per_video_frame_however_long_the_sound_is(tmp_path: Path) -> None:
    short, exact, long = (make_clip(tmp_path, f"c{s}", 10, s) for s in (0.37, 0.4, 0.5))
    report = extract_audio_features(tmp_path, "mfcc")
    assert (report.done, report.kept, report.skipped) == (3, 0, [])
    for clip in (short, exact, long):
        assert clip.features("mfcc").shape == (10, 4, 39)
    samples = torch.from_numpy(np.round(0.1 * np.random.default_rng(0).standard_normal(6400) * 32767) / 32768).float()
    expected = load_encoder("mfcc")(samples)
    torch.testing.assert_close(exact.features("mfcc"), expected, atol=5e-3, rtol=1e-3)  # float16 on disk


def test_the_default_encoder_is_whisper_with_the_packaged_weights(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, "a", 10, 0.4)
    extract_audio_features(tmp_path)
    assert clip.features("whisper").shape == (10, 3, 384)


def test_the_control_without_audio_is_an_encoder_like_the_others(tmp_path: Path) -> None:
    clip, mute = make_clip(tmp_path, "a", 10, 0.4), make_clip(tmp_path, "mute", 10)
    report = extract_audio_features(tmp_path, "none")
    assert (report.done, report.skipped) == (1, [(mute.id, "no audio track")])
    assert torch.equal(clip.features("none"), torch.zeros(10, 1, 1))
    assert clip.require_features("none") == {"encoder": "none", "version": 1}
    assert extract_audio_features(tmp_path, "none").kept == 1
    with pytest.raises(SpearError, match="none is computed without weights; leave --weights out, or choose another"):
        extract_audio_features(tmp_path, "none", weights="x")


def test_a_second_run_does_nothing_and_changed_clips_or_settings_are_noticed(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = (make_clip(tmp_path, *known, split="val") for known in (("a", 10, 0.4), ("b", 12, 0.48)))
    assert extract_audio_features(tmp_path, "mfcc").done == 2
    report = extract_audio_features(tmp_path, "mfcc")
    assert (report.done, report.kept, calls) == (0, 2, [6400, 7680])
    first.write_info(ClipInfo(**{**first.info.__dict__, "frames": 9}))
    report = extract_audio_features(tmp_path, "mfcc")
    assert (report.done, report.kept, first.features("mfcc").shape[0]) == (1, 1, 9)
    other = Mfcc()
    other.settings = {"encoder": "mfcc", "version": 2}
    monkeypatch.setattr(stage, "load_encoder", lambda name, weights: other)
    assert extract_audio_features(tmp_path, "mfcc").done == 2


def test_a_take_with_seven_views_is_computed_once_and_so_are_its_copies(tmp_path: Path, calls: list[int]) -> None:
    views = ("down", "front", "left_30", "left_60", "right_30", "right_60", "top")
    clips = [make_clip(tmp_path, view, 10, 0.4) for view in views]
    assert extract_audio_features(tmp_path, "mfcc").done == 7
    assert len(calls) == 6  # the take, four changed copies, silence
    assert (calls[0], calls[-1]) == (6400, 3 * 16_000)
    first = clips[0]
    for other in clips[1:]:
        assert other.speeds("mfcc") == first.speeds("mfcc")
        for name in ("features", "changed0", "changed1", "changed2", "changed3", "silence"):
            assert torch.equal(other.features("mfcc", name=name), first.features("mfcc", name=name))


def test_clips_of_the_train_split_have_changed_copies(tmp_path: Path, calls: list[int]) -> None:
    """Copies are other speech, each as long as its speed says."""
    train, val, test = (make_clip(tmp_path, name, 50, 2.0, split=name) for name in ("train", "val", "test"))
    assert extract_audio_features(tmp_path, "mfcc").done == 3
    assert (val.speeds("mfcc"), test.speeds("mfcc")) == ([], [])
    speeds = train.speeds("mfcc")
    assert len(speeds) == 4
    plain = train.features("mfcc")
    for number, speed in enumerate(speeds):
        copy = train.features("mfcc", name=f"changed{number}")
        assert speed in (0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.13, 1.19)
        assert len(copy) == round(50 / speed)
        assert copy.shape[1:] == plain.shape[1:] == (4, 39)
        assert not torch.allclose(copy[:40], plain[:40], atol=0.1)
    assert train.features("mfcc", name="silence").shape == (75, 4, 39)  # 3 s


def test_equal_speech_has_equal_copies_in_every_run(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make_clip(tmp_path / folder, "a", 20, 0.8)
        extract_audio_features(tmp_path / folder, "mfcc")
    one, two = ((tmp_path / folder / "a" / "mfcc.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_how_many_copies_is_what_was_asked_for(tmp_path: Path, calls: list[int]) -> None:
    """Another number is made anew, the same is kept; a clip that has left the train split loses its copies."""
    clip = make_clip(tmp_path, "a", 10, 0.4)
    for changed, made in ((2, 1), (2, 0), (0, 1), (0, 0), (None, 1), (4, 0), (1, 1)):
        report = extract_audio_features(tmp_path, "mfcc", changed=changed)
        assert (report.done, report.kept) == (made, 1 - made)
        assert len(clip.speeds("mfcc")) == (4 if changed is None else changed)
    clip.write_info(replace(clip.info, split="val"))
    assert extract_audio_features(tmp_path, "mfcc", changed=1).done == 1
    assert clip.speeds("mfcc") == []
    assert extract_audio_features(tmp_path, "mfcc").kept == 1


def test_encoders_that_take_long_have_no_copies_unless_they_are_asked_for(tmp_path: Path) -> None:
    """The control stands for them all: it is none of mfcc and whisper."""
    clip = make_clip(tmp_path, "a", 10, 0.4)
    assert extract_audio_features(tmp_path, "none").done == 1
    assert clip.speeds("none") == []
    assert extract_audio_features(tmp_path, "none", changed=2).done == 1
    assert len(clip.speeds("none")) == 2


def test_clips_without_sound_are_listed(tmp_path: Path) -> None:
    make_clip(tmp_path, "mute", 10)
    make_clip(tmp_path, "loud", 10, 0.4)
    lost = make_clip(tmp_path, "lost", 10, 0.4)
    lost.audio_path.unlink()
    told: list[tuple[int, int, str]] = []
    report = extract_audio_features(tmp_path, "mfcc", progress=lambda *what: told.append(what))
    assert report.done == 1
    assert report.skipped == [
        ("lost", f"{lost.audio_path} does not exist; give a file with speech"),
        ("mute", "no audio track"),
    ]
    assert told == [(1, 2, "lost"), (2, 2, "loud")]
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    stage = "extract-audio-features --encoder mfcc"
    assert rows == [{"stage": stage, "clip": name, "reason": reason} for name, reason in report.skipped]


def test_no_sound_at_all_is_an_error(tmp_path: Path) -> None:
    make_clip(tmp_path, "mute", 10)
    with pytest.raises(SpearError) as caught:
        extract_audio_features(tmp_path, "mfcc")
    assert str(caught.value) == (
        f"no clip in {tmp_path} has an audio track; run `spear preprocess` on videos with sound"
    )


def test_numbers_beyond_float16_are_an_error_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path, "a", 10, 0.4)
    monkeypatch.setattr(Mfcc, "__call__", lambda self, samples: torch.full((10, 4, 39), 1e6))
    with pytest.raises(SpearError) as caught:
        extract_audio_features(tmp_path, "mfcc")
    assert str(caught.value) == (
        f"mfcc gives numbers beyond float16 for {clip.audio_path}; its weights look damaged, "
        "give others with --weights FOLDER"
    )
    assert not clip.features_path("mfcc").exists()
