"""`spear metrics --figures`: which files come where; figures change no score, hide none, and destroy nobody's file."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import complaint, done, files, forked_spear
from made_up import make_clip

import spear.figures
from spear.audio import load_audio
from spear.checkpoint import save_checkpoint
from spear.clip import Clip
from spear.errors import SpearError
from spear.figures import ClipFigures, opening_title
from spear.nets.a2lm import A2LMConfig, build_a2lm
from spear.pretrained.mfcc import Mfcc
from spear.scores.compare import Scores
from spear.stages.metrics import metrics
from spear.stages.metrics_videos import compare_videos
from spear.stages.train_lm2face import train_lm2face
from spear.talker import load_a2lm, predict_clip
from spear.video import Footage

FRAMES = 30
SUFFIXES = (".mp4", ".opening.png", ".png")
LD = frozenset({"ld"})
add, plot = ClipFigures.add, spear.figures.opening_plot


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nets that have learned next to nothing."""
    folder = tmp_path_factory.mktemp("models")
    net = build_a2lm(A2LMConfig("mfcc", Mfcc().settings, (4, 39), references=4))
    save_checkpoint(folder / "a2lm.safetensors", "a2lm", asdict(net.config), net.state_dict())
    for name, split in (("a", "train"), ("b", "val")):
        make_clip(folder / "clips" / name, 12, seed=len(split), split=split)
    train_lm2face(folder / "clips", folder, frames_per_clip=1, epochs=1)
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of the test split and one of another."""
    folder = tmp_path / "clips"
    for seed, (name, split) in enumerate((("a", "test"), ("b", "test"), ("c", "train"))):
        make_clip(folder / name, FRAMES, seed, split)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_of(*clips: str) -> list[str]:
    return [f"{name}{suffix}" for name in clips for suffix in SUFFIXES]


def test_every_scored_clip_has_figures_and_no_score_changes(clips: Path, models: Path, tmp_path: Path) -> None:
    plain, found = (metrics(clips, models, LD, figures=figures) for figures in (None, tmp_path / "out" / "figures"))
    assert names(tmp_path / "out/figures") == all_of("a", "b")  # c is not of the test split
    assert found.notes == [*plain.notes, f"figures of 2 clips in {tmp_path / 'out/figures'}"]
    assert (found.values, found.per_clip, found.protocol) == (plain.values, plain.per_clip, plain.protocol)
    for name in "ab":
        assert len(list(Footage(tmp_path / "out/figures" / f"{name}.mp4").frames())) == FRAMES
        heard, said = load_audio(tmp_path / "out/figures" / f"{name}.mp4"), load_audio(clips / name / "audio.wav")
        assert np.abs(heard[: len(said)]).mean() == pytest.approx(np.abs(said).mean(), rel=0.1)  # noise, as it is there


def test_the_clip_its_points_and_the_prediction_are_drawn(
    clips: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[Any, ...]] = []
    openings: list[Any] = []
    monkeypatch.setattr(ClipFigures, "add", lambda self, *given: added.append(given) or add(self, *given))
    monkeypatch.setattr(spear.figures, "opening_plot", lambda *two: openings.append(two) or plot(*two))
    clip = Clip(clips / "a")
    points, confidence = clip.landmarks()
    confidence[3:5] = 0
    clip.write_landmarks(points, confidence, {"detector": "made up"})
    found = metrics(clips, models, LD, figures=tmp_path / "figures")
    pred = predict_clip(load_a2lm(models / "a2lm.safetensors"), clip)[0].numpy()
    assert len(added) == 2 * FRAMES
    for number, (truth_frame, (frame, truth, lower)) in enumerate(
        zip(Footage(clip.face_path).frames(), added[:FRAMES], strict=True)
    ):
        assert np.array_equal(frame, truth_frame)
        if number in (3, 4):
            assert (truth, lower) == (None, None)
        else:
            assert np.array_equal(truth, points[number])
            assert lower == pytest.approx(pred[number], abs=1e-4)
    r = found.per_clip[0]["lip_opening_r"]
    assert opening_title(*openings[0]).startswith(f"r {r:.2f}, ")


@pytest.mark.parametrize(("asked", "scored"), [({"psnr"}, ["ld", "psnr"]), ({"lvd"}, ["lvd"]), (set(), ["ld"])])
def test_figures_bring_the_scores_of_landmarks(
    asked: set[str], scored: list[str], clips: Path, models: Path, tmp_path: Path
) -> None:
    found = metrics(clips, models, frozenset(asked), figures=tmp_path / "figures")
    assert found.protocol["scores"] == scored
    assert found.values["ld_skill"] is not None
    assert ("psnr_crop" in found.values) == ("psnr" in asked)


def damaged(clips: Path, models: Path, which: set[str], folder: Path) -> tuple[Scores, list[str]]:
    """Scores, and the notes that are not on controls, which two short clips do not have."""
    found = metrics(clips, models, frozenset(which), figures=folder)
    return found, [note for note in found.notes if "controls" not in note]


@pytest.mark.parametrize("video", [b"no video", None], ids=["unreadable", "of another clip"])
def test_a_damaged_video_is_one_note(
    video: bytes | None, clips: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips / "a" / "face.mp4"
    if video is None:
        path.write_bytes((make_clip(tmp_path / "short", 20).face_path).read_bytes())
        reason = f"{path} has 20 frames, clip.json says 30; delete that folder and run `spear preprocess`"
    else:
        path.write_bytes(video)
        reason = f"{path} cannot be read as video, picture or sound (invalid data found when processing input); "
    found, notes = damaged(clips, models, {"ld"}, tmp_path / "figures")
    assert [row["clip"] for row in found.per_clip] == ["a", "b"]  # LD needs no picture
    assert len(notes) == 2
    assert notes[0].startswith(f"no figures of a: {reason}")
    assert notes[1] == f"figures of 1 clip in {tmp_path / 'figures'}"
    assert names(tmp_path / "figures") == all_of("b")
    found, notes = damaged(clips, models, {"ld", "psnr"}, tmp_path / "figures")
    assert [row["clip"] for row in found.per_clip] == ["b"]
    assert len(notes) == 2
    assert notes[0].startswith(f"left out: a: {reason}")


def test_progress_goes_over_scores_and_figures(clips: Path, models: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    metrics(clips, models, LD, figures=tmp_path / "figures", progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == [*range(30, 61), *range(90, 121)]
    assert {call[1] for call in calls} == {4 * FRAMES}
    assert list(dict.fromkeys(call[2] for call in calls)) == ["a", "a, figures", "b", "b, figures"]


def test_a_folder_that_cannot_be_used_gets_one_line(clips: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpearError) as caught:
        metrics(clips, models, LD, figures=tmp_path / "file")
    tail = "choose another folder or change its permissions"
    assert str(caught.value) == f"cannot write in {tmp_path / 'file'}: File exists; {tail}"
    # not a clip's fault: the clip is not left out, the command ends
    (tmp_path / "figures" / "b.png").mkdir(parents=True)
    with pytest.raises(SpearError) as caught:
        metrics(clips, models, LD, figures=tmp_path / "figures")
    assert str(caught.value) == f"cannot write {tmp_path / 'figures/b.png'}: it is a folder; choose another name"


def test_old_figures_are_overwritten_and_other_files_are_not(clips: Path, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    metrics(clips, models, LD, figures=folder)
    before = files(folder)
    make_clip(tmp_path / "other", FRAMES, seed=9).face_path.replace(clips / "a" / "face.mp4")
    metrics(clips, models, LD, figures=folder)
    after = files(folder)
    assert {name for name in after if after[name][1] != before[name][1]} == {"a.mp4", "a.png"}
    assert all(after[name][0] > before[name][0] for name in after)
    for mine in ("a.mp4", "a.png"):  # someone keeps the footage under the names of its clips
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / mine).write_bytes(b"mine")
        with pytest.raises(SpearError) as caught:
            metrics(clips, models, LD, figures=folder)
        assert str(caught.value) == f"{folder / mine} is there already and is no figure; give another folder"
        assert (names(folder), (folder / mine).read_bytes()) == ([mine], b"mine")


# --- two videos ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(talking_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for name, source in (("out.mp4", "talker_1.mp4"), ("truth.mp4", "talker_0.mp4")):
        shutil.copy(talking_videos / source, folder / name)
    return folder


def test_two_videos_on_the_command_line(pair: Path) -> None:
    options = ["metrics", "out.mp4", "truth.mp4", "--figures", "figures"]
    lines = done(forked_spear(*options, "--ld", cwd=pair)).splitlines()
    assert lines[-1].strip() == "figures of 1 clip in figures"
    assert names(pair / "figures") == all_of("out")
    footage = Footage(pair / "figures" / "out.mp4")
    drawn, truth = list(footage.frames()), list(Footage(pair / "truth.mp4").frames())
    assert (len(drawn), drawn[0].shape, footage.has_audio) == (50, (640, 640, 3), True)
    # the corners, which no line reaches, are those of the true frames, not of the prediction's
    corner = [cv2.resize(frame, (320, 320), interpolation=cv2.INTER_AREA)[:60, :60] for frame in drawn]
    other = list(Footage(pair / "out.mp4").frames())
    errors = [np.mean([np.abs(a - b[:60, :60].astype(float)) for a, b in zip(corner, them, strict=True)])
              for them in (truth, other)]  # fmt: skip
    assert errors[0] < errors[1] / 2
    scores = json.loads(done(forked_spear(*options, "--psnr", "--json", cwd=pair)))
    assert scores["notes"][-1] == "figures of 1 clip in figures"
    assert scores["protocol"]["scores"] == ["ld", "psnr"]


def test_the_prediction_is_not_overwritten_by_its_figures(pair: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(pair, tmp_path / "here", ignore=shutil.ignore_patterns("figures")))
    before = files(here)
    options = ["metrics", "out.mp4", "truth.mp4", "--ld", "--figures"]
    said = complaint(forked_spear(*options, ".", cwd=here))
    assert said == "out.mp4 is there already and is no figure; give another folder"
    said = complaint(forked_spear(*options, "truth.mp4", cwd=here))
    assert said.startswith("cannot write in truth.mp4: File exists; ")
    assert files(here) == before


def test_silent_videos_have_silent_figures(tmp_path: Path) -> None:
    quiet = make_clip(tmp_path / "quiet", 20).face_path
    found = compare_videos(quiet, quiet, LD, figures=tmp_path / "figures")
    assert found.notes[-1] == f"figures of 1 clip in {tmp_path / 'figures'}"
    assert not Footage(tmp_path / "figures" / "face.mp4").has_audio


def test_on_the_command_line_a_split(clips: Path, models: Path, tmp_path: Path) -> None:
    said = done(forked_spear("metrics", "--ld", "--models", models, "--split", "all", "--figures", "f", cwd=tmp_path))
    assert said.splitlines()[-1].strip() == "figures of 3 clips in f"
    assert names(tmp_path / "f") == all_of("a", "b", "c")
    assert "overwritten" in done(forked_spear("metrics", "--help", cwd=tmp_path))
