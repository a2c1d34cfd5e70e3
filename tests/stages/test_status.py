"""`status`: what is done, what is missing and why, and for how long."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from spear.errors import SpearError
from spear.left_out import LeftOut, unfinished
from spear.shards import Shard
from spear.stages.status import status


def clips(folder: Path, count: int, finished: float, apart: float) -> Path:
    """Folders of clips as preprocess leaves them, `apart` seconds after each other, the last one at `finished`."""
    for number in range(count):
        (folder / f"c{number}").mkdir(parents=True)
        end(folder / f"c{number}/clip.json", finished - apart * (count - 1 - number))
    return folder


def end(path: Path, when: float) -> None:
    path.write_text("never read")
    os.utime(path, (when, when))


def test_counts_pace_and_what_is_left(tmp_path: Path) -> None:
    """12 of 30 videos are clips, one was left out, one came every 10 s: 17 take 170 s. 3 of 12 have landmarks."""
    now = time.time()
    folder = clips(tmp_path / "clips", 12, now - 5, 10)
    (folder / "begun").mkdir()  # has no clip.json yet
    with pytest.raises(KeyboardInterrupt), unfinished(folder, "preprocess", 30, Shard()):
        raise KeyboardInterrupt
    LeftOut("preprocess", folder / "skipped.jsonl").note("bad", "no face", source="bad.mp4")
    for number, ago in enumerate((9000, 8994, 8988)):
        end(folder / f"c{number}/landmarks.safetensors", now - ago)
    found = status(folder)
    first, second = found.stages
    assert (first.stage, first.done, first.left_out, first.missing, first.running) == ("preprocess", 12, 1, 17, True)
    assert first.seconds_left == pytest.approx(170, rel=0.01)
    assert (second.stage, second.done, second.missing, second.running) == ("landmarks", 3, 9, False)
    assert second.seconds_left == pytest.approx(54, rel=0.01)
    assert found.to_text().splitlines() == [
        "preprocess: 12 done, 17 missing, 1 left out, 6/min, 2.8 min left",
        "landmarks: 3 done, 9 missing, nothing for 2.5 h; 54 s at the pace before",
        "left out by preprocess: bad.mp4: no face",
    ]
    assert json.loads(found.to_json())["stages"][0]["seconds_left"] == pytest.approx(170, rel=0.01)


def test_a_pause_is_not_part_of_the_pace(tmp_path: Path) -> None:
    """Two runs with a night between them, a clip every second."""
    now = time.time()
    folder = clips(tmp_path, 20, now, 1)
    for number in range(10):
        end(folder / f"c{number}/mfcc.safetensors", now - 30_000 + number)
    for number in range(10, 15):
        end(folder / f"c{number}/mfcc.safetensors", now - 15 + number)
    features = status(folder).stages[2]
    assert features.stage == "extract-audio-features --encoder mfcc"
    assert (features.done, features.missing) == (15, 5)
    assert features.per_second == pytest.approx(1, rel=0.01)


def test_what_is_done_needs_no_time(tmp_path: Path) -> None:
    folder = clips(tmp_path / "clips", 2, time.time(), 1)
    (tmp_path / "models").mkdir()
    end(tmp_path / "models/a2lm.safetensors", time.time() - 7200)
    assert status(folder).to_text().splitlines() == [
        "preprocess: 2 done",
        "landmarks: 0 done, 2 missing",
        "train-a2lm: best model written 2.0 h ago",
    ]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        status(tmp_path / "clips")
    assert str(caught.value) == (
        f"{tmp_path}/clips is not a folder; run `spear preprocess VIDEOS` first, or give the clips' folder"
    )
