"""`train-a2lm`: learns, writes what render reads, goes on where it was stopped, and says what is missing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import make_clip, track
from torch import nn

from spear.checkpoint import load_checkpoint, read_about, read_tensors, save_checkpoint
from spear.clip import Clip
from spear.clip_index import list_clips
from spear.controls import controls
from spear.dataset import SpeechWindows
from spear.errors import SpearError
from spear.nets.a2lm import A2LM, A2LMConfig, carried_lower_face
from spear.points import LOWER, head_motion, lip_opening, spread_over_opening
from spear.pretrained.mfcc import Mfcc
from spear.stages import train_a2lm as stage
from spear.stages.train_a2lm import train_a2lm
from spear.talker import features_of, load_a2lm, predict_clip
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
    report, trained = train_a2lm(clips, models, epochs=60, learning_rate=5e-3)
    figures = trained.figures
    assert report.skipped == []
    assert trained.steps == 60  # three windows, one batch of them an epoch
    assert not (models / "a2lm.samples").exists()  # it has nothing to show
    assert figures["score"] == figures["ld"] < 0.5 * figures["ld_baseline"]
    assert figures["lvd"] < figures["lvd_baseline"]
    assert figures["r"] > 0.8
    assert figures["amplitude"] == pytest.approx(1, abs=0.4)
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


def _fresh(clips: list[Clip], pose: str = "raw") -> A2LM:
    return stage.build_a2lm(stage._config("small", "mfcc", pose, list_clips(clips), list_clips(clips))).eval()


def test_figures_by_hand(clips: Path) -> None:
    """A net that has learned nothing predicts the baseline: the figures of both are equal, its lips are still."""
    clip = Clip(clips / "c3")
    figures = stage._validate(_fresh([clip]), [clip])
    points = clip.landmarks()[0]
    pose = torch.from_numpy(head_motion(points))[None]
    references = torch.from_numpy(points[spread_over_opening(points, 4)])[None]
    off = carried_lower_face(pose, references)[0].numpy() - points[:, LOWER]
    width = np.linalg.norm(points[:, 2] - points[:, 5], axis=-1)  # FaceMesh 234 and 454: 168 px in every frame
    ld = 100 * (np.linalg.norm(off, axis=-1) / width[:, None]).mean()
    lvd = 100 * (np.linalg.norm(np.diff(off, axis=0), axis=-1) / width[1:, None]).mean()
    assert set(figures) == {"score", "ld", "ld_baseline", "lvd", "lvd_baseline", "r", "amplitude"}  # one clip: no pairs
    assert figures["score"] == figures["ld"] == pytest.approx(figures["ld_baseline"], abs=0.02)
    assert figures["ld_baseline"] == pytest.approx(ld, rel=1e-4)
    assert figures["lvd"] == pytest.approx(figures["lvd_baseline"], abs=0.02)
    assert figures["lvd_baseline"] == pytest.approx(lvd, rel=1e-4)
    assert figures["amplitude"] < 0.01


def test_figures_are_means_over_clips_and_hold_the_controls(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [Clip(clips / f"c{i}") for i in range(3)]
    net = _fresh(chosen)
    nn.init.normal_(net.decoder.outward.weight, std=0.01)
    each = [stage._validate(net, [clip]) for clip in chosen]
    figures = stage._validate(net, chosen)
    for name in each[0]:
        assert figures[name] == pytest.approx(np.mean([row[name] for row in each]))
    found = controls(net, chosen)
    assert len(found.pairs) == 3
    assert figures.keys() - each[0].keys() == found.values.keys() > {"swap_r_audio", "swap_r_pose"}
    assert figures.items() >= found.values.items()
    monkeypatch.setattr(stage, "_CONTROL_PAIRS", 1)
    assert stage._validate(net, chosen).items() >= controls(net, chosen, most=1).values.items()


def test_late_sound_is_corrected_where_the_net_was_trained_so(clips: Path, tmp_path: Path) -> None:
    clip = Clip(clips / "c3")
    clip.write_info(replace(clip.info, av_offset=3, av_offset_r=0.5))
    features = clip.features("mfcc")
    for name, options, late in (("a", {}, 3), ("b", {"av_align": False}, 0)):
        train_a2lm(clips, tmp_path / name, epochs=1, **options)
        net = load_a2lm(tmp_path / name / "a2lm.safetensors")
        assert net.config.av_align is not bool(options)
        assert torch.equal(features_of(net, clip)[:40], features[late : 40 + late])


def test_each_preset_has_its_loss(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths for the small one, equation 7 for the paper's."""
    called: list[str] = []
    for name in ("landmark_length_loss", "a2lm_loss"):
        loss = getattr(stage, name)
        monkeypatch.setattr(stage, name, lambda *of, name=name, loss=loss: (called.append(name), loss(*of))[1])
    train_a2lm(clips, tmp_path / "small", epochs=1)
    train_a2lm(clips, tmp_path / "paper", preset="paper", epochs=1)
    assert called == ["landmark_length_loss", "a2lm_loss"]


def test_what_is_not_heard_is_the_mean_to_the_net(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net whose features are standardised reads zeros there."""
    seen: list[torch.Tensor] = []
    forward = A2LM.forward

    def watched(self: A2LM, features: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append((features - self.feature_mean).abs())
        return forward(self, features, *rest)

    monkeypatch.setattr(A2LM, "forward", watched)
    heard = SpeechWindows.__getitem__

    def deaf(self: SpeechWindows, place: tuple[int, int]) -> dict[str, torch.Tensor]:
        sample = heard(self, place)
        return sample | {"heard": torch.zeros_like(sample["heard"])}

    monkeypatch.setattr(SpeechWindows, "__getitem__", deaf)
    train_a2lm(clips, tmp_path, epochs=1)
    assert seen[0].shape == (3, 30, 4, 39)
    assert not seen[0].any()
    assert seen[1].any()  # the validation hears all


def test_prediction_for_a_clip(clips: Path, tmp_path: Path) -> None:
    train_a2lm(clips, tmp_path, epochs=1)
    pred, baseline = predict_clip(load_a2lm(tmp_path / "a2lm.safetensors"), Clip(clips / "c3"))
    assert pred.shape == baseline.shape == (43, 57, 2)


def test_a_checkpoint_of_another_version_gets_one_line(clips: Path, tmp_path: Path) -> None:
    """Its config has an option that is gone, or lacks one; or its weights are those of another net."""
    path = tmp_path / "a2lm.safetensors"
    train_a2lm(clips, tmp_path, epochs=1)
    weights, about = load_checkpoint(path, "a2lm")
    config = about["config"]
    fewer = {name: value for name, value in weights.items() if not name.startswith("mixer")}
    without = {name: value for name, value in config.items() if name != "feature_shape"}
    for kept, described in ((weights, config | {"dropout": 0.1}), (weights, without), (fewer, config)):
        save_checkpoint(path, "a2lm", described, kept)
        with pytest.raises(SpearError) as caught:
            load_a2lm(path)
        assert str(caught.value) == (
            f"{path} is of another version of spear, its net is built in another way; run `spear train-a2lm --restart`"
        )
    save_checkpoint(path, "a2lm", config, weights)
    load_a2lm(path)


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
    with pytest.raises(SpearError, match=r"other settings \(av_align\)"):
        train_a2lm(clips, tmp_path / "a", epochs=1, av_align=False)
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
    fails("--encoder lpc is not one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper, none", encoder="lpc")
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


def test_the_control_without_audio_is_no_choice_unless_it_is_alone(clips: Path, tmp_path: Path) -> None:
    """It is there on purpose, for a comparison, beside what is trained on."""
    all_clips = [Clip(clips / f"c{i}") for i in range(4)]
    for clip in all_clips:
        clip.write_features("none", torch.zeros(clip.info.frames, 1, 1), {"encoder": "none", "version": 1})
    for name, options in (("mfcc", {}), ("none", {"encoder": "none"})):
        train_a2lm(clips, tmp_path / name, epochs=1, **options)
        assert load_a2lm(tmp_path / name / "a2lm.safetensors").config.encoder == name
    for clip in all_clips:
        clip.features_path("mfcc").unlink()
    train_a2lm(clips, tmp_path / "alone", epochs=1)
    assert load_a2lm(tmp_path / "alone" / "a2lm.safetensors").config.encoder == "none"


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
