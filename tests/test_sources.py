"""Which videos there are, what their place says about them, and the split."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from spear.errors import SpearError
from spear.sources import Source, assign_splits, find_sources


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def _sources(count: int, speakers: int = 1) -> list[Source]:
    return [Source(f"clip{i}", Path(f"{i}.mp4"), None, f"speaker{i % speakers}") for i in range(count)]


@pytest.fixture
def mead(tmp_path: Path) -> Path:
    """Two speakers whose numbers are not 1, 2; two views of one take; one take without audio."""
    root = tmp_path / "MEAD"
    for place in (
        "M003/video/front/happy/level_1/001.mp4", "M003/video/left_30/happy/level_1/001.mp4",
        "W040/video/front/neutral/level_3/017.mp4",
    ):  # fmt: skip
        _touch(root / place)
    _touch(root / "M003/audio/happy/level_1/001.m4a")
    return root


def test_mead_is_recognised(mead: Path) -> None:
    sources, notes = find_sources([mead])
    audio = mead / "M003/audio/happy/level_1/001.m4a"
    assert notes == []
    assert [(s.id, s.speaker, s.view, s.emotion, s.level, s.sound) for s in sources] == [
        ("M003_front_happy_1_001", "M003", "front", "happy", 1, audio),
        ("M003_left_30_happy_1_001", "M003", "left_30", "happy", 1, audio),
        ("W040_front_neutral_3_017", "W040", "front", "neutral", 3, None),
    ]


@pytest.mark.parametrize("part", ["M003", "M003/video", "M003/video/front/happy/level_1/001.mp4"])
def test_a_part_of_mead_gives_the_same_ids(mead: Path, part: str) -> None:
    assert find_sources([mead / part])[0][0].id == "M003_front_happy_1_001"


def test_mead_as_a_flat_folder(mead: Path) -> None:
    source = find_sources([mead], "flat")[0][0]
    assert (source.id, source.speaker) == ("M003_video_front_happy_level_1_001", "level_1")
    assert source.view is source.emotion is source.level is source.sound is None


def test_flat_folder_among_mead(mead: Path) -> None:
    _touch(mead / "extra" / "me.mov")
    assert [s.id for s in find_sources([mead])[0]][-1] == "extra_me"
    with pytest.raises(SpearError) as caught:
        find_sources([mead], "mead")
    assert str(caught.value) == (
        f"{mead / 'extra/me.mov'} is not <M|W>NNN/video/<view>/<emotion>/level_<k>/<NNN>.mp4; use --layout auto or flat"
    )


def test_flat_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "anna" / "b.MP4")
    _touch(tmp_path / "anna" / "b.wav")
    _touch(tmp_path / "c.webm")
    sources, _ = find_sources([tmp_path])
    assert [(s.id, s.speaker, s.sound) for s in sources] == [
        ("anna_b", "anna", tmp_path / "anna" / "b.wav"), ("c", tmp_path.name, None),
    ]  # fmt: skip


def test_a_single_file_needs_no_known_ending(tmp_path: Path) -> None:
    assert find_sources([_touch(tmp_path / "recording")])[0][0].id == "recording"


def test_equal_names_from_two_folders_get_ids_of_their_own(tmp_path: Path) -> None:
    first, second = (_touch(tmp_path / name / "001.mp4") for name in ("a", "b"))
    sources, _ = find_sources([tmp_path / "a", tmp_path / "b"])
    assert [s.path for s in sources] == [first, second]
    assert sources[0].id == "001"
    assert re.fullmatch(r"001-[0-9a-f]{6}", sources[1].id)
    assert find_sources([tmp_path / "a", tmp_path / "b"])[0] == sources


def test_equal_stems_with_different_endings(tmp_path: Path) -> None:
    paths = {_touch(tmp_path / name) for name in ("a.mov", "a.mp4")}
    sources, _ = find_sources([tmp_path])
    assert len({s.id for s in sources}) == 2
    assert {s.path for s in sources} == paths


def test_the_same_video_twice_is_one(tmp_path: Path) -> None:
    path = _touch(tmp_path / "sub" / "a.mp4")
    assert len(find_sources([tmp_path, tmp_path])[0]) == 1
    assert len(find_sources([tmp_path, path, tmp_path / "sub"])[0]) == 1  # else it would be in train and in test


HOSTILE = ["ä ö.mp4", "a b.mp4", "a_b.mp4", "-rf.mp4", "x;rm -rf $HOME.mp4", "[bold].mp4", "new\nline.mp4", "..mp4.mp4",
           "a.b.c.mp4", "%s.mp4", "'\".mp4", "日本語.mp4", "CON.mp4", "L" * 200 + ".mp4"]  # fmt: skip


def test_hostile_names_become_plain_folder_names(tmp_path: Path) -> None:
    paths = {_touch(tmp_path / name) for name in HOSTILE if not name.startswith(".")}
    sources, _ = find_sources([tmp_path])
    assert {s.path for s in sources} == paths
    assert len({s.id.lower() for s in sources}) == len(paths)
    for source in sources:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,140}", source.id)
    assert {"a_b", "a.b.c"} <= {s.id for s in sources}  # what is plain stays


def test_files_that_are_no_videos_are_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "b.txt", "c.TXT", "README", ".DS_Store", ".hidden/d.mp4"):
        _touch(tmp_path / name)
    sources, notes = find_sources([tmp_path])
    assert [s.id for s in sources] == ["a"]
    assert notes == ["1 nameless file(s) passed over: not a video", "2 .txt file(s) passed over: not a video"]


def test_no_video(tmp_path: Path) -> None:
    with pytest.raises(SpearError, match=re.escape(f"no video in {tmp_path}; give a folder with .mp4, .mov")):
        find_sources([tmp_path])
    with pytest.raises(SpearError) as caught:
        find_sources([tmp_path / "none"])
    assert str(caught.value) == f"{tmp_path / 'none'} does not exist; give a video or a folder of videos"
    with pytest.raises(SpearError, match=r"^--layout tree is not one of auto, mead, flat$"):
        find_sources([tmp_path], "tree")


@pytest.mark.parametrize(
    ("count", "train", "held_out"),
    [(1, 1, 0), (2, 2, 0), (3, 1, 1), (4, 2, 1), (9, 7, 1), (10, 8, 1), (14, 12, 1), (16, 12, 2), (100, 80, 10)],
)
def test_split_counts(count: int, train: int, held_out: int) -> None:
    counts = Counter(assign_splits(_sources(count), "clip", 0).values())
    assert (counts["train"], counts["val"], counts["test"]) == (train, held_out, held_out)


def test_the_split_is_a_function_of_the_list_and_the_seed() -> None:
    sources = _sources(100)
    split = assign_splits(sources, "clip", 0)
    assert assign_splits(sources[::-1], "clip", 0) == split
    other = assign_splits(sources, "clip", 1)
    assert other != split
    tests = [{name for name, part in s.items() if part == "test"} for s in (split, other)]
    assert len(tests[0] & tests[1]) < 6  # chance: 1 of 10
    assert tests[0] != {f"clip{i}" for i in range(10)}


def test_split_by_speaker_keeps_speakers_together() -> None:
    sources = _sources(200, speakers=20)
    split = assign_splits(sources, "speaker", 0)
    of_speaker = {s.speaker: {split[t.id] for t in sources if t.speaker == s.speaker} for s in sources}
    assert all(len(parts) == 1 for parts in of_speaker.values())
    counts = Counter(part for parts in of_speaker.values() for part in parts)
    assert counts == {"train": 16, "val": 2, "test": 2}


def test_split_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "official.csv"
    path.write_text("clip,split\nclip1,test\nclip0,val\n")
    assert assign_splits(_sources(3), str(path), 0) == {"clip0": "val", "clip1": "test", "clip2": "train"}


@pytest.mark.parametrize("row", ["clip7,test", "clip1,exam", "clip1", ",test"])
def test_split_by_a_file_with_a_wrong_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "official.csv"
    path.write_text(f"clip,split\nclip0,val\n{row}\n")
    name, split = (*row.split(","), None)[:2]
    with pytest.raises(SpearError) as error:
        assign_splits(_sources(3), str(path), 0)
    assert str(error.value) == (
        f"{path}, line 3: wants the id of a clip that there is and one of train, val, test, has {name}, {split}"
    )


def test_unknown_split_rule(tmp_path: Path) -> None:
    with pytest.raises(SpearError, match=r"^--split-by emotion is not one of clip, speaker, nor a \.csv file$"):
        assign_splits(_sources(3), "emotion", 0)
    with pytest.raises(SpearError, match=r"none\.csv does not exist; give --split-by a \.csv file with the columns"):
        assign_splits(_sources(3), str(tmp_path / "none.csv"), 0)


def test_a_name_that_is_no_text_and_a_split_file_that_is_no_table(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).write_bytes(b"")
    sources, _ = find_sources([tmp_path])
    assert [source.id for source in sources] == [f"caf_-{hashlib.sha256(b'caf' + bytes([0xE9])).hexdigest()[:6]}"]
    table = tmp_path / "split.csv"
    for content in (b"clip,split\n" + b"a" * 200_000 + b",train\n", b"clip,split\n\xff,train\n"):
        table.write_bytes(content)
        with pytest.raises(SpearError, match=r"split\.csv cannot be read \(.*\); give a table with the columns"):
            assign_splits(sources, str(table), 0)
