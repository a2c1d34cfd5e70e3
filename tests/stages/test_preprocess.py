"""`preprocess`: what a clip holds, what a second run leaves alone and what it notices."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spear.audio import load_audio, write_wav
from spear.clip import SAMPLES_PER_FRAME, Clip, find_clips
from spear.crop import crop_transform, warp_crop
from spear.errors import SpearError
from spear.points import Array
from spear.progress import Report
from spear.stages import preprocess as stage
from spear.stages.preprocess import preprocess
from spear.sync import AvOffset
from spear.video import Footage, VideoWriter
from spear.workers import Workers


def _blank(path: Path, frames: int = 3) -> Path:
    with VideoWriter(path, 64, 64) as writer:
        for _ in range(frames):
            writer.write(np.full((64, 64, 3), 90, np.uint8))
    return path


def _short(video: Path, path: Path, frames: int = 8, blank: slice = slice(0)) -> Path:
    """The first frames of a video, without sound; those in `blank` show no face."""
    with VideoWriter(path, 320, 320) as writer:
        for i, frame in enumerate(Footage(video).frames(0, frames)):
            writer.write(np.full_like(frame, 90) if i in range(*blank.indices(frames)) else frame)
    return path


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def _changed(before: dict[str, tuple[int, bytes]], folder: Path) -> list[str]:
    after = _files(folder)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@pytest.fixture(scope="module")
def made(talking_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The four talking videos as clips, in this process; tests that change them work on a copy."""
    clips = tmp_path_factory.mktemp("made") / "clips"
    return clips, preprocess([talking_videos], clips)


@pytest.fixture
def clips(made: tuple[Path, Report], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "clips"))


@pytest.fixture
def video(talking_videos: Path, tmp_path: Path) -> Path:
    """One short video in a folder of its own."""
    (tmp_path / "videos").mkdir()
    return _short(talking_videos / "talker_0.mp4", tmp_path / "videos" / "a.mp4")


def test_what_a_clip_holds(made: tuple[Path, Report], talking_videos: Path) -> None:
    folder, report = made
    assert (report.done, report.kept, report.skipped, report.notes) == (4, 0, [], [])
    assert sorted(p.name for p in folder.iterdir()) == [f"talker_{i}" for i in range(4)]
    clip = Clip(folder / "talker_1")
    assert sorted(p.name for p in clip.folder.iterdir()) == ["audio.wav", "clip.json", "face.mp4"]
    info = clip.info
    assert (info.source, info.frames, info.fps) == (str(talking_videos / "talker_1.mp4"), 50, 25)
    assert (info.width, info.height, info.has_audio, info.missing) == (320, 320, True, [])
    assert info.av_offset == 0  # two seconds tell how well the sound fits, but not for certain
    assert info.av_offset_r == pytest.approx(1, abs=0.1)
    face = Footage(clip.face_path)
    assert (face.width, face.height, sum(1 for _ in face.frames())) == (256, 256, 50)
    assert load_audio(clip.audio_path).size == 50 * SAMPLES_PER_FRAME
    assert sorted(c.info.split for c in find_clips(folder)) == ["test", "train", "train", "val"]


def test_the_crop_is_what_its_transform_says(made: tuple[Path, Report], talking_videos: Path) -> None:
    clip = Clip(made[0] / "talker_2")
    transforms = np.array(clip.info.crop)
    assert transforms.shape == (50, 4)
    for i in (0, 31):
        source = next(Footage(talking_videos / "talker_2.mp4").frames(i, i + 1))
        face = next(Footage(clip.face_path).frames(i, i + 1))
        assert np.abs(warp_crop(source, transforms[i]).astype(int) - face).mean() < 1.5  # H.264 at crf 12


def test_a_second_run_does_nothing(clips: Path, talking_videos: Path) -> None:
    before = _files(clips)
    report = preprocess([talking_videos], clips)
    assert (report.done, report.kept) == (0, 4)
    assert _changed(before, clips) == []


def test_a_touched_video_is_the_same_video(clips: Path, talking_videos: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(talking_videos, tmp_path / "videos"))
    os.utime(copy / "talker_0.mp4")
    content = {name: made for name, (_, made) in _files(clips).items()}
    assert preprocess([copy], clips).kept == 4
    before = _files(clips)
    assert {name: made for name, (_, made) in before.items()} == content
    assert preprocess([copy], clips).kept == 4
    assert _changed(before, clips) == []


def test_two_jobs_give_the_same_bytes(made: tuple[Path, Report], talking_videos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = preprocess(
        [talking_videos], tmp_path, workers=Workers(2), progress=lambda done, total, _: seen.append((done, total))
    )
    assert report.done == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    one, two = _files(made[0]), _files(tmp_path)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name][1] != two[name][1]] == []


def test_more_videos_leave_a_speaker_in_the_split_that_he_has(talking_videos: Path, tmp_path: Path) -> None:
    """Alone, a speaker is all of train; among four, one would be dealt to val and one to test."""
    people = tmp_path / "people"
    for i, name in enumerate(("anna", "ben", "carl", "dora")):
        people.joinpath(name).mkdir(parents=True)
        _short(talking_videos / f"talker_{i}.mp4", people / name / "one.mp4")
    clips = tmp_path / "clips"
    for name in ("anna", "ben", "carl", "dora"):
        preprocess([people / name], clips, split_by="speaker")
    before = {clip.info.speaker: clip.info.split for clip in find_clips(clips)}
    assert before == dict.fromkeys(("anna", "ben", "carl", "dora"), "train")  # each was alone in its run
    for name in before:
        _short(people / name / "one.mp4", people / name / "two.mp4", frames=6)
    preprocess([people], clips, split_by="speaker")
    assert len(find_clips(clips)) == 12  # four, and eight under names that tell the person
    assert {(clip.info.speaker, clip.info.split) for clip in find_clips(clips)} == set(before.items())


def test_another_split_rule_rewrites_nothing_but_clip_json(clips: Path, talking_videos: Path) -> None:
    before = _files(clips)
    report = preprocess([talking_videos], clips, seed=1)
    assert (report.done, report.kept) == (0, 4)
    assert _changed(before, clips) == [f"talker_{i}/clip.json" for i in range(4)]
    assert all(clip.info.split_rule == "by clip, seed 1" for clip in find_clips(clips))
    preprocess([talking_videos], clips, split_by="speaker")
    assert {clip.info.split for clip in find_clips(clips)} == {"train"}  # one folder: one speaker
    before = _files(clips)
    preprocess([talking_videos], clips, split_by="speaker")
    assert _changed(before, clips) == []


def test_a_changed_split_file_is_noticed(clips: Path, talking_videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "official.csv"
    for split in ("test", "val"):
        path.write_text(f"clip,split\ntalker_1,{split}\n")
        report = preprocess([talking_videos], clips, split_by=str(path))
        assert (report.done, report.kept) == (0, 4)
        assert [clip.info.split for clip in find_clips(clips)] == ["train", split, "train", "train"]


def test_a_changed_option_makes_the_clip_anew(video: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    preprocess([video], clips)
    fingerprint = Clip(clips / "a").fingerprint
    report = preprocess([video], clips, face="0")
    assert (report.done, report.kept) == (1, 0)
    assert Clip(clips / "a").info.settings["face"] == "0"
    assert Clip(clips / "a").fingerprint != fingerprint  # so that landmarks and features are made anew, too


def test_a_changed_video_is_noticed(video: Path, talking_videos: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    preprocess([video], clips)
    _short(talking_videos / "talker_1.mp4", video, frames=6)
    assert preprocess([video], clips).done == 1
    assert Clip(clips / "a").info.frames == 6


def test_another_video_of_the_same_size_and_date_is_noticed(video: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    preprocess([video], clips)
    before, fingerprint = video.stat(), Clip(clips / "a").fingerprint
    video.write_bytes(video.read_bytes().replace(b"Lavf", b"lavf"))  # the name of what wrote it
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert preprocess([video], clips).done == 1
    assert Clip(clips / "a").fingerprint != fingerprint
    assert preprocess([video], clips).kept == 1


def test_changed_sound_beside_a_video_is_noticed(video: Path, speech_wav: Path, tmp_path: Path) -> None:
    """New, changed, taken away; what was made from the old one no longer fits."""
    clips, sound = tmp_path / "clips", video.with_suffix(".wav")
    fingerprints = set()
    for content in (None, speech_wav.read_bytes(), speech_wav.read_bytes()[:44] + bytes(40_000), None):
        sound.unlink(missing_ok=True)
        if content is not None:
            sound.write_bytes(content)
        assert preprocess([video], clips).done == 1
        assert preprocess([video], clips).kept == 1
        clip = Clip(clips / "a")
        assert clip.info.has_audio == clip.audio_path.exists() == (content is not None)
        fingerprints.add(clip.fingerprint)
    assert len(fingerprints) == 3


def test_a_video_that_changes_while_it_is_read(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(points: Array) -> NDArray[np.float64]:
        os.utime(video)
        return crop_transform(points)

    monkeypatch.setattr(stage, "crop_transform", touched)
    with pytest.raises(SpearError) as caught:
        preprocess([video], tmp_path / "clips")
    assert str(caught.value) == f"{video} changed while it was read; leave it alone and run again"
    assert not (tmp_path / "clips" / "a" / "clip.json").exists()


@pytest.mark.parametrize("name", ["clip.json", "face.mp4", "audio.wav"])
def test_a_lost_file_is_made_again(clips: Path, talking_videos: Path, name: str) -> None:
    before = _files(clips)
    (clips / "talker_3" / name).unlink()
    report = preprocess([talking_videos / "talker_3.mp4"], clips)
    assert report.done == 1
    assert _files(clips)[f"talker_3/{name}"][1] == before[f"talker_3/{name}"][1] or name == "clip.json"
    assert Clip(clips / "talker_3").info.frames == 50


def test_clip_json_is_written_last(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_write_sound", interrupt)
    with pytest.raises(KeyboardInterrupt):
        preprocess([video], tmp_path / "clips")
    assert [p.name for p in (tmp_path / "clips" / "a").iterdir()] == ["face.mp4"]  # and no temporary file
    with pytest.raises(SpearError, match="no clips in"):
        find_clips(tmp_path / "clips")


def test_what_is_left_out_stands_in_skipped_jsonl(video: Path, tmp_path: Path) -> None:
    blank, text, clips = _blank(video.parent / "b.mp4"), video.parent / "c.mp4", tmp_path / "clips"
    text.write_text("no video")
    (video.parent / "d.txt").write_text("notes")
    report = preprocess([video.parent], clips)
    assert (report.done, report.notes) == (1, ["1 .txt file(s) passed over: not a video"])
    rows = [json.loads(line) for line in (clips / "skipped.jsonl").read_text().splitlines()]
    assert [(row["source"], row["reason"]) for row in rows] == report.skipped
    assert rows[0] == {
        "source": str(blank),
        "reason": f"{blank} shows no face in any of 3 frames; give footage with a visible face",
        "stage": "preprocess",
    }
    assert rows[1]["source"] == str(text)
    assert rows[1]["reason"].startswith(f"{text} cannot be read as video, picture or sound")
    assert sorted(p.name for p in clips.iterdir() if p.is_dir()) == [".skipped", "a"]  # none for what is no clip
    # a run over another video keeps what was said, a run over the mended one takes it back
    assert preprocess([video], clips).kept == 1
    assert len((clips / "skipped.jsonl").read_text().splitlines()) == 2
    shutil.copy(video, blank)
    preprocess([video.parent], clips)
    assert [json.loads(line)["source"] for line in (clips / "skipped.jsonl").read_text().splitlines()] == [str(text)]


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    paths = [_blank(tmp_path / "videos" / name) for name in ("a.mp4", "b.mp4")]
    with pytest.raises(SpearError) as caught:
        preprocess([paths[0]], tmp_path / "clips")
    assert str(caught.value) == f"{paths[0]} shows no face in any of 3 frames; give footage with a visible face"
    with pytest.raises(SpearError) as caught:
        preprocess([tmp_path / "videos"], tmp_path / "clips")
    assert str(caught.value) == (
        f"none of 2 videos is usable; {tmp_path / 'clips' / 'skipped.jsonl'} says why, the first: "
        f"{paths[0]} shows no face in any of 3 frames; give footage with a visible face"
    )


def test_frames_without_a_face(talking_videos: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    gap = _short(talking_videos / "talker_0.mp4", tmp_path / "videos" / "gap.mp4", blank=slice(3, 5))
    clips = tmp_path / "clips"
    preprocess([gap], clips, on_missing_face="hold")
    assert Clip(clips / "gap").info.missing == [3, 4]
    whole = _short(talking_videos / "talker_0.mp4", tmp_path / "videos" / "whole.mp4")
    report = preprocess([gap, whole], clips, on_missing_face="skip")
    assert report.done == 1
    assert report.skipped[0][1].startswith(f"{gap} shows no face in 2 of 8 frames, first in frame 3")
    assert [clip.id for clip in find_clips(clips)] == ["whole"]  # the clip that was held before is none any more
    with pytest.raises(SpearError, match="shows no face in 2 of 8 frames"):
        preprocess([gap, whole], clips, on_missing_face="fail")


def test_videos_of_equal_names_in_two_runs_do_not_overwrite_each_other(talking_videos: Path, tmp_path: Path) -> None:
    clips, paths = tmp_path / "clips", []
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        paths.append(_short(talking_videos / f"talker_{i}.mp4", tmp_path / name / "001.mp4", frames=4 + i))
        assert preprocess([tmp_path / name], clips).done == 1
    assert {clip.info.source: clip.info.frames for clip in find_clips(clips)} == {str(paths[0]): 4, str(paths[1]): 5}
    assert preprocess([tmp_path / "b"], clips).kept == 1
    shutil.rmtree(tmp_path / "a")  # a video that is gone leaves its name to another one
    _short(talking_videos / "talker_2.mp4", _moved(tmp_path / "c"), frames=6)
    preprocess([tmp_path / "c"], clips)
    assert sorted(clip.info.frames for clip in find_clips(clips)) == [5, 6]


def _moved(folder: Path) -> Path:
    folder.mkdir()
    return folder / "001.mp4"


def test_sound_beside_a_silent_video(video: Path, speech_wav: Path, tmp_path: Path) -> None:
    shutil.copy(speech_wav, video.with_suffix(".wav"))
    preprocess([video], tmp_path / "clips")
    clip = Clip(tmp_path / "clips" / "a")
    assert clip.info.has_audio
    samples = load_audio(clip.audio_path)
    assert samples.size == 8 * SAMPLES_PER_FRAME
    np.testing.assert_allclose(samples, load_audio(speech_wav)[: samples.size], atol=1e-3)


def test_a_silent_video(video: Path, tmp_path: Path) -> None:
    preprocess([video], tmp_path / "clips")
    clip = Clip(tmp_path / "clips" / "a")
    assert not clip.info.has_audio
    assert not clip.audio_path.exists()
    assert (clip.info.av_offset, clip.info.av_offset_r) == (0, None)


def _delayed(video: Path, path: Path, delay: int, frames: int = 160) -> Path:
    """A talking video's pictures in irregular order, four of each, and in a .wav beside it the sound of each picture.

    The sound comes `delay` frames after its picture (before it, where negative).
    """
    order = np.repeat(np.random.default_rng(0).integers(0, 50, frames // 4), 4)
    pictures = list(Footage(video).frames())
    blocks = load_audio(video)[: 50 * SAMPLES_PER_FRAME].reshape(50, SAMPLES_PER_FRAME)
    with VideoWriter(path, 320, 320) as writer:
        for i in order:
            writer.write(pictures[i])
    write_wav(path.with_suffix(".wav"), np.roll(blocks[order], delay, axis=0).reshape(-1))
    return path


def test_late_and_early_sound_is_told_and_stored(tiny_video: Path, tmp_path: Path) -> None:
    videos, clips = tmp_path / "videos", tmp_path / "clips"
    videos.mkdir()
    _delayed(tiny_video, videos / "in_time.mp4", 0)
    late, early = _delayed(tiny_video, videos / "late.mp4", 4), _delayed(tiny_video, videos / "early.mp4", -3)
    report = preprocess([videos], clips, workers=Workers(2))
    found = {clip.id: clip.info.av_offset for clip in find_clips(clips)}
    assert found == {"in_time": 0, "late": 4, "early": -3}
    assert [re.sub(r"-?0?\.\d\d", "N", note) for note in report.notes] == [
        "early: the sound is 3 frames early (r N instead of N); training and scores correct it, "
        "audio.wav stays as it was",
        "late: the sound is 4 frames late (r N instead of N); training and scores correct it, "
        "audio.wav stays as it was",
    ]
    assert f"r {Clip(clips / 'late').info.av_offset_r:.2f} instead" in report.notes[1]
    for video in (late, early):
        samples = load_audio(Clip(clips / video.stem).audio_path)
        np.testing.assert_allclose(samples, load_audio(video.with_suffix(".wav")), atol=1e-3)  # stays as it was
    assert preprocess([videos], clips).notes == []  # told once


def test_many_offsets_are_one_line() -> None:
    offset = AvOffset(frames=-2, r=0.5, r_as_is=0.125, certain=True)
    then = "training and scores correct it, audio.wav stays as it was"
    assert stage._offset_notes({}) == []
    assert stage._offset_notes({"a": offset}) == [f"a: the sound is 2 frames early (r 0.50 instead of 0.12); {then}"]
    assert len(stage._offset_notes({f"clip{i}": offset for i in range(10)})) == 10
    assert stage._offset_notes({f"clip{i}": offset for i in range(11)}) == [
        f"in 11 clips the sound is late or early (av_offset in clip.json says how much); {then}"
    ]


def test_a_clip_of_an_older_format_is_made_again(video: Path, tmp_path: Path) -> None:
    clip = Clip(tmp_path / "clips" / "a")
    preprocess([video], clip.folder.parent)
    old = json.loads(clip.info_path.read_text())
    del old["av_offset"], old["av_offset_r"]
    clip.info_path.write_text(json.dumps({**old, "format": 1}))
    with pytest.raises(SpearError, match="has format 1, this spear reads 2; run `spear preprocess` again"):
        _ = Clip(clip.folder).info
    assert preprocess([video], clip.folder.parent).done == 1
    assert Clip(clip.folder).info.av_offset == 0


def test_crop_and_tracking_are_those_of_render(made: tuple[Path, Report], talking_videos: Path) -> None:
    """One function cuts in both: the transforms in clip.json are crop_transform of the tracked points."""
    from spear.face import follow_face

    points, _ = follow_face(Footage(talking_videos / "talker_0.mp4"), "largest", "hold")
    np.testing.assert_allclose(Clip(made[0] / "talker_0").info.crop, crop_transform(points), rtol=1e-9)


def test_wrong_options(video: Path, tmp_path: Path) -> None:
    for options, text in (
        ({"on_missing_face": "drop"}, "--on-missing-face drop is not one of hold, skip, fail"),
        ({"split_by": "emotion"}, "--split-by emotion is not one of clip, speaker, nor a .csv file"),
        ({"layout": "tree"}, "--layout tree is not one of auto, mead, flat"),
        ({"face": "nearest"}, "--face nearest is neither `largest` nor a number from 0 on (0 is the leftmost face)"),
    ):
        with pytest.raises(SpearError) as caught:
            preprocess([video], tmp_path / "clips", **options)
        assert str(caught.value) == text
    assert not (tmp_path / "clips").exists()
