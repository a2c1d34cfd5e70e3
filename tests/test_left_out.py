"""skipped.jsonl: one list, kept by several processes at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spear.left_out import LeftOut, read_left_out, unfinished
from spear.shards import Shard


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_noted_is_listed_by_stage_and_clip_and_what_is_done_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    first = LeftOut("preprocess", path)
    first.note("b", "no face", source="videos/b.mp4")
    first.note("a", "no picture", source="videos/a.mp4")
    first.publish()
    a = {"stage": "preprocess", "source": "videos/a.mp4", "reason": "no picture"}
    b = {"stage": "preprocess", "source": "videos/b.mp4", "reason": "no face"}
    assert rows(path) == [a, b]
    second = LeftOut("extract-audio-features --encoder mfcc", path)
    second.note("c", "no sound")
    second.publish()
    c = {"stage": "extract-audio-features --encoder mfcc", "clip": "c", "reason": "no sound"}
    assert rows(path) == [c, a, b]
    assert [*read_left_out(path)] == [c, a, b]
    again = LeftOut("preprocess", path)
    for clip in ("a", "b", "c"):  # c: of another stage, and never left out of this one
        again.forget(clip)
    again.publish()
    assert rows(path) == [c]


def test_nothing_left_out_leaves_no_file(tmp_path: Path) -> None:
    LeftOut("landmarks", tmp_path / "skipped.jsonl").publish()
    assert [*tmp_path.iterdir()] == []


def test_a_list_that_says_it_already_stays_untouched(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    for _ in range(2):
        left_out = LeftOut("landmarks", path)
        left_out.note("a", "no face")
        left_out.publish()
        times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    left_out = LeftOut("landmarks", path)
    left_out.note("a", "no face")
    left_out.publish()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_a_record_that_comes_while_the_list_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "skipped.jsonl", LeftOut("landmarks", tmp_path / "skipped.jsonl")
    written: list[str] = []

    def write(to: Path, text: str) -> None:
        to.write_text(text)
        written.append(text)
        if len(written) == 1:
            other.note("late", "no face")  # the other process will write the list, but it may be slow

    monkeypatch.setattr("spear.left_out.write_text", write)
    one = LeftOut("landmarks", path)
    one.note("early", "no face")
    one.publish()
    assert [row["clip"] for row in rows(path)] == ["early", "late"]
    assert len(written) == 2


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"

    def work(part: int) -> None:
        left_out = LeftOut("preprocess", path)
        for number in range(5):
            left_out.note(f"clip_{part}_{number}", "why not")
        left_out.publish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(rows(path)) == 40


def test_how_many_there_are_is_known_until_the_work_is_done(tmp_path: Path) -> None:
    with unfinished(tmp_path, "preprocess", 7, Shard(1, 4)):
        assert json.loads((tmp_path / ".unfinished/preprocess.2-of-4.json").read_text()) == {"clips": 7}
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path, "preprocess", 7, Shard()):
        raise KeyboardInterrupt
    assert (tmp_path / ".unfinished/preprocess.1-of-1.json").exists()
    with unfinished(tmp_path, "preprocess", 7, Shard(), work=False):  # killed when all was done but this file
        pass
    assert [*tmp_path.iterdir()] == []
