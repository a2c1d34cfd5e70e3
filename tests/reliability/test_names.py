"""Issue 8, 17: names that shells, printf, playlists, terminals and encodings make something else of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reliability.conftest import Tally
from reliability.outcome import Outcome, is_whole, run_cli

NAMES = [
    "with space", " leads and ends ", "quo'te", 'dou"ble', "-dash", "--help", "semi;touch canary", "$(touch canary)",
    "`touch canary`", "a&b|c>d", "new\nline", "tab\there", "back\\slash", "%03d", "[a]*?{b,c}", "[red]mark[red]",
    "concat:a|b", "http:x.example", "a#b?c=d", "ünï😀", "\u202eright-to-left", "e\u0301 combined",
    os.fsdecode(b"bytes \xff\xfe"), "l" * 240,
]  # fmt: skip
assert len(NAMES) == 24
TRAINED = {"--help", "new\nline", "[red]mark[red]"}
"""With these the trainings run as well, seconds each."""


def ids(name: str) -> str:
    return name.encode("unicode_escape").decode("ascii")[:20]


@pytest.mark.reliability
@pytest.mark.parametrize("name", NAMES, ids=ids)
def test_a_name_is_a_name(name: str, tmp_path: Path, tiny_talker: Path, portrait_png: Path, tally: Tally) -> None:
    """Through every command; right, or one clear line; and nothing that is in the name is done."""

    def run(command: str, *words: str) -> Outcome:
        outcome = tally.judge(run_cli(command, *words, cwd=tmp_path))
        assert outcome.sound or outcome.code in (3, 4), outcome
        assert not outcome.traceback, outcome
        assert not (tmp_path / "canary").exists()
        return outcome

    short = name[:200]
    video, face, folder = f"./{short}.mp4", f"./{short}.png", f"./{short} clips"
    shutil.copy(tiny_talker, tmp_path / video)
    shutil.copy(portrait_png, tmp_path / face)
    if run("preprocess", video, "--clips", folder).done:
        assert len(list((tmp_path / folder).glob("*/face.mp4"))) == 1
        assert run("landmarks", "--clips", folder).done
        assert run("extract-audio-features", "--clips", folder, "--encoder", "mfcc", "--changed", "1").done
        assert run("check", folder).done
        assert run("metrics", video, video, "--psnr", "--report", f"./{short} report").done
    if run("render", "--audio", video, "--ref", face, "-o", f"./{name}.mkv").done:
        assert is_whole(tmp_path / f"./{name}.mkv")
        assert run("verify", f"./{name}.mkv").out.count("marked") >= 1
    if name in TRAINED:
        clips = [clip.name for clip in (tmp_path / folder).iterdir() if clip.is_dir()]
        shutil.copytree(tmp_path / folder / clips[0], tmp_path / folder / "val")
        for training in ("train-a2lm", "train-lm2face"):
            extra = ["--frames-per-clip", "1"] if training == "train-lm2face" else []
            run(training, "--clips", folder, "--models", f"./{name} models", "--epochs", "1", *extra)
        run("metrics", "--clips", folder, "--models", f"./{name} models", "--split", "all", "--ld")
