"""`render --list`: many renders, once, and the same bytes as one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Run, complaint, done, files, forked_spear

from spear.audio import load_audio, write_wav
from spear.provenance import read_sidecar
from spear.stages.render_many import RenderOptions, render_many
from spear.workers import Workers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path, portrait_png: Path) -> tuple[Path, Run]:
    """Two renders of half a second and one of a file that is no sound, by two processes."""
    folder = tmp_path_factory.mktemp("many")
    write_wav(folder / "short.wav", load_audio(speech_wav)[:6400])
    write_wav(folder / "long.wav", load_audio(speech_wav)[:8000])
    (folder / "no.wav").write_text("no sound")
    (folder / "face.png").write_bytes(portrait_png.read_bytes())
    rows = [f"{name}.wav,face.png,{name}/out.mp4" for name in ("short", "no", "long")]
    (folder / "list.csv").write_text("\n".join(["audio,ref,out", *rows]))
    return folder, forked_spear("render", "--list", "list.csv", "-o", "made", "--jobs", "2", cwd=folder)


def test_what_can_be_rendered_is_and_the_rest_is_listed(made: tuple[Path, Run]) -> None:
    folder, run = made
    what = "no.wav cannot be read as video, picture or sound (invalid data found when processing input)"
    reason = f"{what}; give a file with speech"
    assert (run.code, run.err) == (3, "")
    assert run.out == f"2 renders done, 0 already there, 1 left out\nleft out: no/out.mp4: {reason}\n"
    row = {"stage": "render", "out": "no/out.mp4", "audio": "no.wav", "ref": "face.png", "reason": reason}
    assert [json.loads(line) for line in (folder / "list.csv.skipped.jsonl").read_text().splitlines()] == [row]
    assert {name for name in files(folder / "made") if not name.endswith(".json")} == {"short/out.mp4", "long/out.mp4"}


def test_it_is_the_render_that_the_sidecar_tells(made: tuple[Path, Run]) -> None:
    folder, _ = made
    record = read_sidecar(folder / "made/short/out.mp4")
    assert record is not None
    assert record.command == "spear render --audio short.wav --ref face.png -o made/short/out.mp4"
    listed = files(folder / "made")["short/out.mp4"][1]
    words = record.command.replace("made/short/out.mp4", "single.mp4").split()[1:]
    done(forked_spear(*words, cwd=folder))
    assert files(folder)["single.mp4"][1] == listed


def test_a_second_run_renders_what_is_missing_or_changed(
    made: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    monkeypatch.chdir(folder)
    before = files(folder / "made")
    arguments = (Path("list.csv"), Path("made"))
    report = render_many(*arguments)
    assert (report.done, report.kept, len(report.skipped)) == (0, 2, 1)
    assert files(folder / "made") == before
    write_wav(folder / "short.wav", load_audio(folder / "short.wav")[:5760])
    assert (render_many(*arguments).done, render_many(*arguments).kept) == (1, 2)
    assert files(folder / "made")["long/out.mp4"] == before["long/out.mp4"]
    report = render_many(*arguments, RenderOptions(watermark=True))  # of other options it is another video
    assert (report.done, report.kept) == (2, 0)


def test_words_of_options_are_those_that_differ() -> None:
    assert RenderOptions().words() == []
    options = RenderOptions(models=Path("m"), adapt=3, provenance=False, watermark=True)
    assert options.words() == ["--models", "m", "--adapt", "3", "--no-provenance", "--watermark"]


def test_parts_are_the_whole(made: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counted alone: every row belongs to one of the parts."""
    from spear.shards import Shard
    from spear.stages import render_many as stage

    monkeypatch.chdir(made[0])
    monkeypatch.setattr(stage, "_render_one", lambda row, options: [])
    parts = [render_many(Path("list.csv"), tmp_path, workers=Workers(shard=Shard(i, 2))) for i in range(2)]
    assert sum(part.done for part in parts) == 3
    assert sorted(part.notes[0] for part in parts)[0].startswith("part 1/2: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--audio short.wav", "invalid value: give --audio and --ref, or a --list of many"),
        (
            "--audio short.wav --ref face.png --jobs 2",
            "invalid value: --jobs, --scheduler and --shard are for a --list of many",
        ),
        (
            "--list list.csv --ref face.png",
            "invalid value: --list has audio, ref and out of each render; leave --audio, --ref, --sheet out",
        ),
    ],
)
def test_wrong_usage(args: str, message: str, made: tuple[Path, Run]) -> None:
    said = complaint(forked_spear("render", *args.split(), cwd=made[0]), code=2)
    assert said == f"{message}; see `spear render --help`"
