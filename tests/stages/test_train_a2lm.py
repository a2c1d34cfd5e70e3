"""`train-a2lm`: learns, writes what render reads, goes on where it was stopped, and says what is missing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import make_clip, track

from spear.checkpoint import load_checkpoint, read_about, read_tensors
from spear.clip import Clip
from spear.errors import SpearError
from spear.nets.a2lm import A2LMConfig, carried_lower_face
from spear.points import LOWER, head_motion, lip_opening, spread_over_opening
from spear.pretrained.mfcc import Mfcc
from spear.stages import train_a2lm as stage
from spear.stages.train_a2lm import train_a2lm
from spear.talker import load_a2lm, predict_clip
from spear.training import InterruptedTraining


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips for training, one for validation; what is heard in them is how far the lips are open."""
    for i, split in enumerate(["train"] * 3 + ["val"]):
        points = track(40 + i, seed=i)
        clip = make_clip(tmp_path / "clips" / f"c{i}", split=split, seed=i, points=points)
        features = torch.from_numpy(lip_opening(points)).view(-1, 1, 1).expand(-1, 4, 39)
        clip.write_features("mfcc", features, Mfcc().settings)
    return tmp_path / "clips"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small preset, smaller: seconds instead of minutes."""
    monkeypatch.setattr(A2LMConfig.__init__, "__defaults__", _smaller(A2LMConfig.__init__.__defaults__))


def _smaller(defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    sizes = {160: 16, 3: 1, 4: 2, 512: 32, 75: 30, 15: 4}  # width, layers, heads, feed-forward, window, references
    return tuple(sizes.get(value, value) if type(value) is int else value for value in defaults)


def test_it_learns_and_writes_a_checkpoint_that_describes_itself(clips: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    report, figures = train_a2lm(clips, models, epochs=60, learning_rate=5e-3)
    assert report.skipped == []
    assert figures["score"] == figures["ld"] < 0.5 * figures["ld_baseline"]
    assert figures["r"] > 0.8
    about = read_about(models / "a2lm.safetensors")
    assert (about["kind"], about["preset"], about["seed"]) == ("a2lm", "small", 0)
    assert about["config"]["encoder"] == "mfcc"
    assert about["config"]["encoder_settings"] == Mfcc().settings
    assert about["config"]["feature_shape"] == [4, 39]
    assert about["training"]["figures"] == figures
    net = load_a2lm(models / "a2lm.safetensors")
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    # the figures are those of the net in the file
    assert stage._validate(net, [Clip(clips / "c3")]) == pytest.approx(figures)


def test_figures_by_hand(clips: Path) -> None:
    """A net that has learned nothing predicts the baseline: the figures of both are equal."""
    clip = Clip(clips / "c3")
    net = stage.build_a2lm(stage._config("small", "mfcc", "raw", [clip])).eval()
    figures = stage._validate(net, [clip])
    points = clip.landmarks()[0]
    pose = torch.from_numpy(head_motion(points))[None]
    references = torch.from_numpy(points[spread_over_opening(points, 4)])[None]
    off = carried_lower_face(pose, references)[0].numpy() - points[:, LOWER]
    width = np.linalg.norm(points[:, 2] - points[:, 5], axis=-1)  # FaceMesh 234 and 454
    expected = 100 * (np.linalg.norm(off, axis=-1) / width[:, None]).mean()
    assert figures["ld"] == pytest.approx(figures["ld_baseline"], abs=0.02)
    assert figures["ld_baseline"] == pytest.approx(expected, rel=1e-4)


def test_prediction_for_a_clip(clips: Path, tmp_path: Path) -> None:
    train_a2lm(clips, tmp_path, epochs=1)
    pred, baseline = predict_clip(load_a2lm(tmp_path / "a2lm.safetensors"), Clip(clips / "c3"))
    assert pred.shape == baseline.shape == (43, 57, 2)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_a2lm(clips, tmp_path / "unbroken", epochs=6)
    losses, count = stage.landmark_mse, [0]

    def stop(*args: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGTERM)
        return losses(*args)

    monkeypatch.setattr(stage, "landmark_mse", stop)
    with pytest.raises(InterruptedTraining):
        train_a2lm(clips, tmp_path / "stopped", epochs=6)
    train_a2lm(clips, tmp_path / "stopped", epochs=6)
    one, two = (read_tensors(tmp_path / n / "a2lm.state" / "state.safetensors")[0] for n in ("unbroken", "stopped"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_seed_restart_and_other_options(clips: Path, tmp_path: Path) -> None:
    weights = []
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        train_a2lm(clips, tmp_path / name, epochs=1, **options)
        weights.append(load_checkpoint(tmp_path / name / "a2lm.safetensors", "a2lm")[0]["decoder.outward.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(SpearError) as caught:
        train_a2lm(clips, tmp_path / "a", epochs=1, pose="raw")
    assert str(caught.value) == (
        f"{tmp_path / 'a' / 'a2lm.state'} was trained with other settings (pose); "
        "use --restart to begin anew, or another --models"
    )
    train_a2lm(clips, tmp_path / "a", epochs=1, pose="raw", restart=True)
    assert load_a2lm(tmp_path / "a" / "a2lm.safetensors").config.pose == "raw"


def test_frames_that_were_held_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip of 8 frames in a window of 30: what is predicted for the other 22 costs nothing."""
    for name, split in (("a", "train"), ("b", "val")):
        make_clip(tmp_path / "clips" / name, frames=8, split=split)
    seen: list[torch.Tensor] = []
    mse = stage.landmark_mse
    monkeypatch.setattr(stage, "landmark_mse", lambda a, b: (seen.append((a - b).detach()), mse(a, b))[1])
    train_a2lm(tmp_path / "clips", tmp_path / "models", epochs=1)
    assert seen[0].shape[1] == 30
    assert seen[0][:, :8].any()
    assert not seen[0][:, 8:].any()


def test_what_is_missing(clips: Path, tmp_path: Path) -> None:
    def fails(text: str, **options: Any) -> None:
        with pytest.raises(SpearError) as caught:
            train_a2lm(clips, tmp_path / "models", epochs=1, **options)
        assert str(caught.value) == text

    fails("--preset large is not one of small, paper", preset="large")
    fails("--pose none is not one of rigid, raw", pose="none")
    fails("--encoder lpc is not one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper", encoder="lpc")
    folder, first = clips / "c0", "run `spear extract-audio-features --encoder hubert` first"
    fails(f"no hubert.safetensors in {folder}; {first}", encoder="hubert")
    whisper = [(clip := Clip(clips / f"c{i}")).features_path("whisper") for i in range(4)]
    for path in whisper:
        path.write_bytes(clip.features_path("mfcc").read_bytes())
    fails("the clips have features of mfcc and whisper; choose one with --encoder")
    for path in whisper:
        path.unlink()
    Clip(folder).write_features("mfcc", torch.zeros(40, 4, 39), {"version": 0})
    path = Clip(clips / "c1").features_path("mfcc")
    fails(f"{path} was made with other settings than the rest; run `spear extract-audio-features --encoder mfcc` again")
    for i in range(4):
        Clip(clips / f"c{i}").features_path("mfcc").unlink()
    fails(f"no audio features in {clips}; run `spear extract-audio-features` first")


def test_no_clip_for_validation(clips: Path, tmp_path: Path) -> None:
    path = clips / "c3" / "clip.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "train"}))
    with pytest.raises(SpearError) as caught:
        train_a2lm(clips, tmp_path, epochs=1)
    assert str(caught.value) == f"no clip of the val split in {clips}; preprocess more videos, at least three"


def test_paper_preset(clips: Path, tmp_path: Path) -> None:
    """One step with the sizes of the paper."""
    train_a2lm(clips, tmp_path, preset="paper", pose="raw", epochs=1)
    config = load_a2lm(tmp_path / "a2lm.safetensors").config
    assert (config.width, config.feedforward, config.light) == (512, 1024, False)
    schedule = stage.SCHEDULES["paper"]
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (200, 32, 1e-4)  # section 4.3
