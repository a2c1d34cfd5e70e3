"""The commands through the real command line: what they make, and the one line that bad input gets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from command_line import Run, complaint, done, files, forked_spear, mind_signals, spear
from safetensors import safe_open

from spear.audio import load_audio, write_wav
from spear.checkpoint import save_checkpoint
from spear.video import VideoWriter

COMMANDS = (
    "preprocess", "extract-audio-features", "landmarks", "pack", "train-a2lm", "train-lm2face", "render", "metrics",
    "status", "verify", "check",
)  # fmt: skip
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "numpy", "scipy", "mediapipe", "av", "cv2", "decord"}


# --- help, version, usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, tmp_path: Path) -> None:
    text = done(forked_spear(command, "--help", cwd=tmp_path))
    assert f"Usage: spear {command} [OPTIONS]" in text
    assert f": spear {command} " in text.split("Example")[1]


def test_help_lists_the_commands_and_completion(tmp_path: Path) -> None:
    options, table = done(spear("--help", cwd=tmp_path)).split("Commands")
    rows = [line.removeprefix("│ ") for line in table.splitlines() if line.startswith("│ ")]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == [*COMMANDS]
    assert "--install-completion" in options
    assert "--show-completion" in options


def test_completion_offers_the_commands(tmp_path: Path) -> None:
    asked = {"_SPEAR_COMPLETE": "complete_bash", "COMP_WORDS": "spear train", "COMP_CWORD": "1"}
    entry = Path(sys.executable).with_name("spear")
    run = subprocess.run(
        [entry], env=os.environ | asked, cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True
    )
    assert run.stdout.split() == ["train-a2lm", "train-lm2face"]


def test_version(tmp_path: Path) -> None:
    assert done(spear("--version", cwd=tmp_path)) == "spear 0.1.0\n"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spear_cli", "--help"],
        cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert imported & HEAVY == set()


def test_help_takes_less_than_0_4_seconds(tmp_path: Path) -> None:
    """Of processor time, the best of three: other tests may keep the machine busy."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done(spear("--help", cwd=tmp_path))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4


def test_without_arguments_comes_the_help(tmp_path: Path) -> None:
    run = forked_spear(cwd=tmp_path)
    assert (run.code, run.err) == (2, "")
    assert "Usage: spear [OPTIONS] COMMAND" in run.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--nope", "no such option: --nope; see `spear --help`"),
        ("sing", "no such command 'sing'; see `spear --help`"),
        ("landmarks --nope", "no such option: --nope; see `spear landmarks --help`"),
        ("preprocess", "missing argument 'videos'; see `spear preprocess --help`"),
        (
            "render --ref face.mp4",
            "invalid value: give --audio and --ref, or a --list of many; see `spear render --help`",
        ),
        (
            "render --audio a.wav --ref b.mp4 --adapt -1",
            "invalid value for '--adapt': Input should be greater than or equal to 0; see `spear render --help`",
        ),
        (
            "train-lm2face --refs 0",
            "invalid value for '--refs': Input should be greater than or equal to 1; see `spear train-lm2face --help`",
        ),
        (
            "metrics out.mp4",
            "invalid value: give both PRED and TRUTH, or neither for the test split; see `spear metrics --help`",
        ),
    ],
)
def test_wrong_usage(args: str, message: str, tmp_path: Path) -> None:
    assert complaint(spear(*args.split(), cwd=tmp_path), code=2) == message


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_input(tmp_path_factory: pytest.TempPathFactory, tiny_video: Path, speech_wav: Path, portrait_png: Path) -> Path:
    """A folder with one of each kind of file that cannot be used, and with the good ones that go with them."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "text.mp4").write_text("This is no video.\n")
    (folder / "notes.txt").write_text("A file, not a folder.\n")
    whole = tiny_video.read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "good.mp4").write_bytes(whole)
    shutil.copy(speech_wav, folder / "speech.wav")
    shutil.copy(portrait_png, folder / "face.png")
    for name, sound in (("wall.mp4", speech_wav), ("mute.mp4", None)):
        with VideoWriter(folder / name, 128, 128, sound) as writer:
            for grey in range(50, 150, 10):
                writer.write(np.full((128, 128, 3), grey, np.uint8))
    with wave.open(str(folder / "nothing.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    return folder


@pytest.fixture
def bad(bad_input: Path, tmp_path: Path) -> Path:
    """A copy of bad_input to run in."""
    return Path(shutil.copytree(bad_input, tmp_path / "here"))


NO_MEDIA = "cannot be read as video, picture or sound (invalid data found when processing input)"
CUT = "cut.mp4 ends after 15 of 50 frames; it is truncated: replace it"
NO_FACE = "wall.mp4 shows no face in any of 10 frames; give footage with a visible face"
FACE_LEFT = "--face left is neither `largest` nor a number from 0 on (0 is the leftmost face)"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("missing", "missing does not exist; give a video or a folder of videos"),
        ("empty", "no video in empty; give a folder with .mp4, .mov, .mkv ... files"),
        ("text.mp4", f"text.mp4 {NO_MEDIA}; give a video or a picture with a face"),
        ("cut.mp4", CUT),
        ("wall.mp4", NO_FACE),
        ("speech.wav", "speech.wav has no video track; give a video or a picture with a face"),
        (
            "text.mp4 cut.mp4 --jobs 2",
            f"none of 2 videos is usable; clips/skipped.jsonl says why, the first: {CUT}",
        ),
        ("good.mp4 --face 7", "good.mp4 has no face number 7; it shows 1: give --face largest, or a number below 1"),
        ("good.mp4 --face left", FACE_LEFT),
        ("good.mp4 --layout tree", "--layout tree is not one of auto, mead, flat"),
        (
            "good.mp4 --layout mead",
            "good.mp4 is not <M|W>NNN/video/<view>/<emotion>/level_<k>/<NNN>.mp4; use --layout auto or flat",
        ),
        ("good.mp4 --split-by day", "--split-by day is not one of clip, speaker, nor a .csv file"),
        ("good.mp4 --on-missing-face cry", "--on-missing-face cry is not one of hold, skip, fail"),
        (
            "good.mp4 --clips notes.txt/clips",
            "cannot write in notes.txt/clips: Not a directory; choose another folder or change its permissions",
        ),
    ],
)
def test_preprocess_refuses(args: str, message: str, bad: Path) -> None:
    before = files(bad)
    assert complaint(forked_spear("preprocess", *args.split(), cwd=bad)) == message
    after = {name: what for name, what in files(bad).items() if "skipped" not in name}
    assert after == before


def test_preprocess_goes_on_without_the_unusable(bad: Path) -> None:
    run = spear("preprocess", "good.mp4", "wall.mp4", "text.mp4", cwd=bad)
    assert (run.code, run.err) == (3, "")
    reasons = {"text.mp4": f"text.mp4 {NO_MEDIA}; give a video or a picture with a face", "wall.mp4": NO_FACE}
    assert run.out.splitlines() == [
        "1 clips done, 0 already there, 2 left out",
        *(f"left out: {name}: {reason}" for name, reason in reasons.items()),
    ]
    kept = [json.loads(line) for line in (bad / "clips/skipped.jsonl").read_text().splitlines()]
    assert kept == [{"source": name, "reason": reason, "stage": "preprocess"} for name, reason in reasons.items()]


@pytest.mark.parametrize("command", ["extract-audio-features", "landmarks", "train-a2lm", "train-lm2face"])
def test_stages_want_clips_first(command: str, tmp_path: Path) -> None:
    message = "clips is not a folder; run `spear preprocess VIDEOS` first, or give the folder with --clips"
    assert complaint(spear(command, cwd=tmp_path)) == message
    assert files(tmp_path) == {}


def test_an_empty_folder_holds_no_clips(bad: Path) -> None:
    message = "no clips in empty; run `spear preprocess VIDEOS` first, or give the folder with --clips"
    assert complaint(forked_spear("landmarks", "--clips", "empty", cwd=bad)) == message


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        ("missing.mp4", "missing.mp4 does not exist; give a video, a folder of videos or a glob in quotes"),
        ("text.mp4", f"text.mp4 {NO_MEDIA}; give a video or a picture with a face"),
        ("cut.mp4", CUT),
    ],
)
def test_metrics_refuses(pred: str, message: str, bad: Path) -> None:
    before = files(bad)
    assert complaint(forked_spear("metrics", pred, "good.mp4", "--psnr", cwd=bad)) == message
    assert files(bad) == before


def test_metrics_wants_models_first(tmp_path: Path) -> None:
    message = "no a2lm.safetensors in models; run `spear train-a2lm` first, or give a folder with --models"
    assert complaint(forked_spear("metrics", cwd=tmp_path)) == message


def test_fid_says_which_weights_it_lacks(bad: Path) -> None:
    message = complaint(forked_spear("metrics", "good.mp4", "good.mp4", "--fid", cwd=bad, TORCH_HOME=str(bad / "hub")))
    name = "pt_inception-2015-12-05-6726825d.pth"
    assert message.startswith(f"no Inception weights at {bad}/hub/hub/checkpoints/{name}, FID needs them; download ")
    assert message.endswith(f"/{name} and put it there, or give it with `--inception-weights FILE`")


# --- the whole chain on tiny footage ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Where the commands were run once, and what each of them said."""

    folder: Path
    said: dict[str, str]


STAGES = {
    "preprocess": ["videos"],
    "extract-audio-features": ["--encoder", "mfcc"],
    "landmarks": [],
    "train-a2lm": ["--epochs", "1"],
    "train-lm2face": ["--epochs", "1", "--frames-per-clip", "1"],
}
"""The stages that keep what they made, with options that make them short."""


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory, talking_videos: Path, speech_wav: Path, portrait_png: Path
) -> Chain:
    """The stages and a render, run once in an empty folder with four videos."""
    folder = tmp_path_factory.mktemp("chain")
    shutil.copytree(talking_videos, folder / "videos")
    shutil.copy(speech_wav, folder / "speech.wav")
    shutil.copy(portrait_png, folder / "face.png")
    said = {name: done(spear(name, *options, cwd=folder)) for name, options in STAGES.items()}
    ref = ("--audio", "speech.wav", "--ref", "videos/talker_0.mp4", "-o", "out.mp4")
    said["render"] = done(spear("render", *ref, cwd=folder))
    return Chain(folder, said)


def test_the_chain_makes_the_files_between_the_stages(chain: Chain) -> None:
    made = files(chain.folder)
    of_clip = ("clip.json", "face.mp4", "audio.wav", "landmarks.safetensors", "mfcc.safetensors")
    assert {name for name in made if name.startswith("clips/")} == {
        "clips/.index/clips.safetensors",
        *(f"clips/talker_{i}/{name}" for i in range(4) for name in of_clip),
    }
    of_net = (".safetensors", ".last.safetensors", ".log.jsonl", ".state")
    assert {name.split("/")[1] for name in made if name.startswith("models/")} == {
        *(f"{net}{suffix}" for net in ("a2lm", "lm2face") for suffix in of_net),
        "lm2face.samples",
        "tensorboard",
    }
    infos = [json.loads((chain.folder / f"clips/talker_{i}/clip.json").read_text()) for i in range(4)]
    assert sorted(info["split"] for info in infos) == ["test", "train", "train", "val"]
    assert chain.said["preprocess"] == "4 clips done, 0 already there, 0 left out\n"
    assert chain.said["train-a2lm"].startswith("models/a2lm.safetensors: ld ")


def test_the_files_have_the_shapes_of_the_design(chain: Chain) -> None:
    clip = chain.folder / "clips/talker_0"
    info = json.loads((clip / "clip.json").read_text())
    assert (info["frames"], info["fps"], len(info["crop"])) == (50, 25, 50)
    with safe_open(clip / "landmarks.safetensors", framework="np") as file:
        points, confidence = file.get_tensor("points"), file.get_tensor("confidence")
    assert (points.shape, points.dtype, confidence.shape) == ((50, 131, 2), np.float32, (50,))
    with safe_open(clip / "mfcc.safetensors", framework="np") as file:
        features = file.get_tensor("features")
    assert (features.ndim, len(features), features.dtype) == (3, 50, np.float16)
    with wave.open(str(clip / "audio.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (16000, 1, 32000)
    with av.open(str(clip / "face.mp4")) as face:
        video = face.streams.video[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 256, 256)
        assert (video.average_rate, video.frames) == (25, 50)


def figures(said: str) -> set[str]:
    """What a training said, in no order: a state keeps its figures sorted by name."""
    return set(said.rstrip().partition(": ")[2].split(", "))


@pytest.mark.parametrize("command", STAGES)
def test_a_second_run_does_nothing(command: str, chain: Chain) -> None:
    before = files(chain.folder)
    again = done(forked_spear(command, *STAGES[command], cwd=chain.folder))
    assert files(chain.folder) == before
    if command.startswith("train-"):
        assert figures(again) == figures(chain.said[command])
    else:
        assert again == "0 clips done, 4 already there, 0 left out\n"


def play(path: Path) -> tuple[int, tuple[int, int], float]:
    """Decode all of a video: frames, width and height, seconds of sound."""
    frames = samples = 0
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == 25
        for packet in container.demux(video, sound):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    frames += 1
                else:
                    samples += frame.samples
        return frames, (video.width, video.height), samples / sound.rate


def test_render_has_the_length_of_the_speech_and_the_size_of_the_ref(chain: Chain) -> None:
    frames, size, seconds = play(chain.folder / "out.mp4")
    assert (frames, size) == (50, (320, 320))
    assert seconds == pytest.approx(2.0, abs=1 / 25)
    said = chain.said["render"].splitlines()
    assert said[0] == "models: models"
    assert said[1].startswith("out.mp4: 50 frames of 320x320, ")


def test_render_with_a_picture_and_the_models_that_ship(speech_wav: Path, portrait_png: Path, tmp_path: Path) -> None:
    said = done(spear("render", "--audio", speech_wav, "--ref", portrait_png, cwd=tmp_path))
    assert said.splitlines()[0] == "models: those that ship with spear 0.1.0"
    assert sorted(files(tmp_path)) == ["out.mp4", "out.mp4.json"]
    sidecar = json.loads((tmp_path / "out.mp4.json").read_text())
    assert sidecar["video"]["sha256"] == hashlib.sha256((tmp_path / "out.mp4").read_bytes()).hexdigest()
    assert [one["name"] for one in sidecar["weights"]] == ["a2lm.safetensors", "lm2face.safetensors"]
    assert sidecar["command"].startswith("spear render --audio ")
    assert done(forked_spear("verify", "out.mp4", cwd=tmp_path)).splitlines()[0] == "out.mp4: marked"
    with open(tmp_path / "out.mp4", "ab") as file:
        file.write(b"x")
    changed = forked_spear("verify", "out.mp4", cwd=tmp_path)
    assert (changed.code, changed.out.splitlines()[0]) == (5, "out.mp4: tampered")
    assert play(tmp_path / "out.mp4")[:2] == (50, (320, 320))


def test_render_adapts_to_the_ref_once(chain: Chain, tmp_path: Path) -> None:
    """What was learned is kept in the cache folder."""
    work = ("--audio", "speech.wav", "--ref", "videos/talker_0.mp4", "--adapt", "2", "-o", tmp_path / "out.mp4")
    kept = []
    for _ in range(2):
        said = done(forked_spear("render", *work, cwd=chain.folder, XDG_CACHE_HOME=str(tmp_path / "cache")))
        assert said.splitlines()[0] == "models: models"
        assert play(tmp_path / "out.mp4")[:2] == (50, (320, 320))
        kept.append(files(tmp_path / "cache" / "spear" / "adapted"))
    (name,) = kept[0]
    assert re.fullmatch(r"[0-9a-f]{24}\.safetensors", name)
    assert kept[1] == kept[0]


UNITS = ("ratio", "percent", "px256")
LANDMARK_SCORES = {f"{n}_{unit}" for n in ("ld", "ld_lips", "lvd", "lvd_lips", "lvd_squared") for unit in UNITS}
LIP_SCORES = {f"lip_opening_{name}" for name in ("r", "amplitude", "best_r", "best_lag_frames")}
SPLIT_SCORES = {
    "ld_skill", "lvd_over_baseline", "lip_opening_r_mean", "lip_opening_r_min",
    *(f"{name}_baseline_{unit}" for name in ("ld", "lvd") for unit in UNITS),
}  # fmt: skip
CONTROLS = {"swap_r_audio", "swap_r_pose", "swap_r_truths", "wrong_audio_effect"}


def test_metrics_of_two_videos(chain: Chain) -> None:
    pair, which = ("out.mp4", "videos/talker_0.mp4"), ("--ld", "--lvd", "--psnr", "--ssim")
    scores = json.loads(done(spear("metrics", *pair, *which, "--json", cwd=chain.folder)))
    pictures = {"psnr_full", "psnr_crop", "ssim_full", "ssim_crop"}
    assert set(scores["values"]) == LANDMARK_SCORES | LIP_SCORES | pictures
    assert scores["values"]["psnr_full"] > 15
    assert scores["protocol"]["frames"] == 50
    assert [row["clip"] for row in scores["per_clip"]] == ["out.mp4"]


def test_metrics_of_two_folders(talking_videos: Path, tmp_path: Path) -> None:
    """Two pairs and one without a partner: a line for each on stdout, a page, and the same again from the cache."""
    (tmp_path / "made").mkdir()
    for pred, truth in (("talker_0", "talker_1"), ("talker_2", "talker_2"), ("alone", "talker_3")):
        shutil.copy(talking_videos / f"{truth}.mp4", tmp_path / "made" / f"{pred}.mp4")
    words = ("metrics", "made/*.mp4", talking_videos, "--all", "--against", "paper", "--report", "page")
    run = forked_spear(*words, "--csv", cwd=tmp_path)
    assert (run.code, run.err) == (3, "")
    table = run.out
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["clip"] for row in rows] == ["talker_0", "talker_2"]
    assert float(rows[1]["ld_percent"]) == 0 < float(rows[0]["ld_percent"])
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["index.html", "scores.csv", "scores.json"]
    assert (tmp_path / "page" / "scores.csv").read_text() == table
    scores = json.loads((tmp_path / "page" / "scores.json").read_text())
    assert {"ld", "lvd", "psnr", "ssim", "lmd", "sync"} <= {*scores["protocol"]["scores"]}
    assert scores["protocol"]["pairs"] == 2
    assert "left out: made/alone.mp4: nothing of that name in " in "\n".join(scores["notes"])
    assert {"table": 1, "model": "SPEAR", "measured": False, "ld": 1.84, "lvd": 1.28} in scores["against"]
    shown = forked_spear(*words[:-2], cwd=tmp_path).out
    for words in ("LMD, Chen et al.", "sync: lips with speech", "published by others", "talker_0"):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none good.mp4", "none does not exist; give a video, a folder of videos or a glob in quotes"),
        ("good.mp4 good.mp4 --against nature", "--against nature is not known; give --against paper"),
        (
            "good.mp4 good.mp4 --report good.mp4",
            "cannot write in good.mp4: File exists; choose another folder",
        ),
    ],
)
def test_metrics_refuses_before_any_work(words: str, message: str, bad: Path) -> None:
    before = files(bad)
    assert complaint(forked_spear("metrics", *words.split(), "--psnr", cwd=bad)).startswith(message)
    assert files(bad) == before


def test_metrics_of_the_test_split(chain: Chain) -> None:
    scores = json.loads(done(forked_spear("metrics", "--ld", "--psnr", "--json", cwd=chain.folder)))
    assert set(scores["values"]) == LANDMARK_SCORES | LIP_SCORES | SPLIT_SCORES | {"psnr_crop", "psnr_hull"}
    assert (scores["protocol"]["split"], scores["protocol"]["clips"]) == ("test", 1)
    table = done(forked_spear("metrics", "--ld", cwd=chain.folder))
    assert "LD of the baseline" in table
    assert "\nprotocol\n  split: test\n  clips: 1\n" in table


def test_metrics_of_every_split_together(chain: Chain) -> None:
    """Four clips with different sound: there are pairs, so the controls are among the scores."""
    scores = json.loads(done(forked_spear("metrics", "--ld", "--lvd", "--split", "all", "--json", cwd=chain.folder)))
    assert set(scores["values"]) == LANDMARK_SCORES | LIP_SCORES | SPLIT_SCORES | CONTROLS
    assert (scores["protocol"]["split"], scores["protocol"]["clips"]) == ("all", 4)


@pytest.mark.parametrize(
    ("command", "options"), [("train-a2lm", ["--no-av-align"]), ("train-lm2face", ["--frames-per-clip", "1"])]
)
def test_a_training_says_how_fast_it_was(command: str, options: list[str], chain: Chain, tmp_path: Path) -> None:
    where = ("--clips", chain.folder / "clips", "--epochs", "2")
    score, speed = done(forked_spear(command, *where, *options, cwd=tmp_path)).splitlines()
    assert score.startswith(f"models/{command.removeprefix('train-')}.safetensors: ")
    assert re.fullmatch(r"[\d.e+]+ steps/s, the data loader kept the trainer \d+ % busy", speed)


def test_changed_copies_of_the_speech_are_as_many_as_asked_for(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.folder / "clips", tmp_path / "clips")
    for options, copies in (((), 4), (("--changed", "1"), 1), (("--changed", "0"), 0)):
        done(forked_spear("extract-audio-features", "--encoder", "mfcc", *options, cwd=tmp_path))
        for folder in (tmp_path / "clips").glob("[!.]*"):
            train = json.loads((folder / "clip.json").read_text())["split"] == "train"
            with safe_open(folder / "mfcc.safetensors", framework="np") as file:
                names = {name for name in file.keys() if name.startswith("changed")}  # noqa: SIM118
            assert names == {f"changed{i}" for i in range(copies if train else 0)}


def test_stage_2_trains_with_every_option_of_large_nets_and_goes_on_from_a_model(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.folder / "clips", tmp_path / "clips")
    short = ("--epochs", "1", "--frames-per-clip", "1", "--cache-latents", "--decoded-frames", "1", "--save-memory")
    done(forked_spear("train-lm2face", *short, "--refs", "2", cwd=tmp_path))
    infos = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("clips/*/clip.json")}
    kept = {path.parent.name for path in tmp_path.glob("clips/*/latents.safetensors")}
    assert kept == {name for name, info in infos.items() if info["split"] != "test"}
    before = without_index(tmp_path / "clips")
    further = ("--init", "models/lm2face.safetensors", "--models", "further")
    done(forked_spear("train-lm2face", *short, *further, cwd=tmp_path))
    assert without_index(tmp_path / "clips") == before
    for models in ("models", "further"):
        with safe_open(tmp_path / models / "lm2face.safetensors", framework="np") as file:
            config = json.loads(file.metadata()["spear"])["config"]
        assert (config["references"], config["bank"]) == (2, 2)


# --- bad input that takes a chain to give ----------------------------------------------------------------------------


def without_index(folder: Path) -> dict[str, object]:
    """All files but the list of clips, which any training makes that finds none."""
    return {name: value for name, value in files(folder).items() if ".index" not in name}


@pytest.mark.parametrize(
    ("lacking", "args", "message"),
    [
        ("mfcc", "train-a2lm", "no audio features in clips; run `spear extract-audio-features` first"),
        ("landmarks", "train-a2lm", "no landmarks.safetensors in clips/{train}; run `spear landmarks` first"),
        ("landmarks", "train-lm2face", "no landmarks.safetensors in clips/{train}; run `spear landmarks` first"),
        ("landmarks", "metrics", "no landmarks.safetensors in clips/{test}; run `spear landmarks` first"),
        (
            "mfcc",
            "metrics",
            "no mfcc.safetensors in clips/{test}; run `spear extract-audio-features --encoder mfcc` first",
        ),
        (
            "",
            "train-a2lm --encoder hubert",
            "no hubert.safetensors in clips/{train}; run `spear extract-audio-features --encoder hubert` first",
        ),
        (
            "",
            "train-a2lm --encoder ears",
            "--encoder ears is not one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper, none",
        ),
        ("", "train-a2lm --preset huge", "--preset huge is not one of small, paper"),
        ("", "train-a2lm --pose yoga", "--pose yoga is not one of rigid, raw"),
        ("", "train-lm2face --preset huge", "--preset huge is not one of small, paper"),
        (
            "",
            "train-lm2face --init none.safetensors",
            "no none.safetensors in .; run `spear train-lm2face` first, or give another folder with --models",
        ),
        ("", "landmarks --detector eyes", "--detector eyes is not one of mediapipe, face-alignment"),
        (
            "",
            "extract-audio-features --encoder ears",
            "no audio encoder is called ears; choose one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper, none",
        ),
        ("", "metrics --split some", "--split some is not one of train, val, test, all"),
    ],
)
def test_stages_want_the_stage_before_and_known_words(
    lacking: str, args: str, message: str, chain: Chain, tmp_path: Path
) -> None:
    without = shutil.ignore_patterns(f"{lacking}.safetensors", ".index")  # made while there was all
    shutil.copytree(chain.folder / "clips", tmp_path / "clips", ignore=without)
    command, *options = args.split()
    if command == "metrics":
        options += ["--models", str(chain.folder / "models")]
    before = without_index(tmp_path)
    infos = [(path.parent.name, json.loads(path.read_text())) for path in sorted(tmp_path.glob("clips/*/clip.json"))]
    first = {info["split"]: name for name, info in reversed(infos)}
    assert complaint(forked_spear(command, *options, cwd=tmp_path)) == message.format(**first)
    assert without_index(tmp_path) == before


def test_hubert_says_which_weights_it_lacks(chain: Chain, tmp_path: Path) -> None:
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    message = complaint(spear("extract-audio-features", "--encoder", "hubert", cwd=chain.folder, **hub))
    assert message == (
        "the weights facebook/hubert-large-ll60k of the encoder hubert are not on this computer; run "
        "`hf download facebook/hubert-large-ll60k`, or point to a folder that holds them with --weights FOLDER"
    )


def test_the_paper_preset_says_which_autoencoder_it_lacks(chain: Chain, tmp_path: Path) -> None:
    clips = ("--clips", chain.folder / "clips")
    run = spear("train-lm2face", *clips, "--preset", "paper", cwd=tmp_path, HF_HOME=str(tmp_path / "hub"))
    assert complaint(run) == (
        "the autoencoder stabilityai/sd-vae-ft-mse is neither a folder nor in the hub's cache; "
        "fetch it with `hf download stabilityai/sd-vae-ft-mse` or give a folder with --vae"
    )


@pytest.mark.parametrize("command", ["train-a2lm", "train-lm2face"])
def test_training_wants_a_folder_that_can_be_written(command: str, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("A file, not a folder.\n")
    where = ("--clips", chain.folder / "clips", "--models", "notes.txt/models")
    message = complaint(forked_spear(command, *where, "--epochs", "1", cwd=tmp_path))
    assert message == (
        "cannot write in notes.txt/models: Not a directory; choose another folder or change its permissions"
    )
    assert list(files(tmp_path)) == ["notes.txt"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--audio missing.wav", "missing.wav does not exist; give a file with speech"),
        ("--audio nothing.wav", "nothing.wav holds no sound at all (0 samples); give a file with speech"),
        ("--audio face.png", "face.png has no audio track; give a file with speech"),
        ("--audio mute.mp4", "mute.mp4 has no audio track; give a file with speech"),
        ("--audio text.mp4", f"text.mp4 {NO_MEDIA}; give a file with speech"),
        ("--ref text.mp4", f"text.mp4 {NO_MEDIA}; give a video or a picture with a face"),
        ("--ref cut.mp4", CUT),
        ("--ref wall.mp4", NO_FACE),
        ("--ref empty", "empty is a folder; give a video or a picture with a face"),
        ("--face 7", "face.png has no face number 7; it shows 1: give --face largest, or a number below 1"),
        ("--face left", FACE_LEFT),
        (
            "-o notes.txt/out.mp4",
            "cannot write notes.txt/out.mp4: File exists; choose another folder or change its permissions",
        ),
        ("-o out.txt", "out.txt does not end in .mp4, .mov, .mkv; give the video a name that does"),
        ("--ref good.mp4 -o good.mp4", "good.mp4 is the audio or the ref itself; give another -o"),
        (
            "--models empty",
            "no a2lm.safetensors in empty; run `spear train-a2lm` first, or give another folder with --models",
        ),
        (
            "--models swapped",
            "swapped/a2lm.safetensors holds a checkpoint of kind 'lm2face', 'a2lm' is needed here; give that one",
        ),
        (
            "--models old",
            "old/lm2face.safetensors is of another version of spear, its net is built in another way; "
            "run `spear train-lm2face --restart`",
        ),
    ],
)
def test_render_refuses(args: str, message: str, chain: Chain, bad: Path) -> None:
    models = chain.folder / "models"
    (bad / "swapped").mkdir()
    (bad / "swapped/a2lm.safetensors").symlink_to(models / "lm2face.safetensors")
    (bad / "swapped/lm2face.safetensors").symlink_to(models / "a2lm.safetensors")
    (bad / "old").mkdir()
    (bad / "old/a2lm.safetensors").symlink_to(models / "a2lm.safetensors")
    save_checkpoint(bad / "old/lm2face.safetensors", "lm2face", {"teeth": 32}, {"x": torch.zeros(1)})
    before = files(bad)
    usual = ("--audio", "speech.wav", "--ref", "face.png", "-o", "out.mp4", "--models", models)
    assert complaint(forked_spear("render", *usual, *args.split(), cwd=bad)) == message
    assert files(bad) == before


def test_a_full_disk_leaves_nothing_half_written(chain: Chain, bad: Path) -> None:
    before = files(bad)
    work = ("--audio", "speech.wav", "--ref", "good.mp4", "-o", "out.mp4", "--models", chain.folder / "models")
    message = complaint(forked_spear("render", *work, cwd=bad, most_bytes=4000))
    assert message.startswith("cannot write ")
    assert files(bad) == before


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_render_leaves_nothing_half_written(
    number: int, code: int, word: str, chain: Chain, bad: Path
) -> None:
    write_wav(bad / "speech.wav", np.tile(load_audio(bad / "speech.wav"), 20))  # 40 s: long enough to be caught at work
    before = files(bad)
    work = ("--audio", "speech.wav", "--ref", "good.mp4", "-o", "out.mp4", "--models", str(chain.folder / "models"))
    process = subprocess.Popen(
        [sys.executable, "-m", "spear_cli", "render", *work],
        cwd=bad, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=mind_signals,
    )  # fmt: skip
    while not [path for path in bad.glob(".spear-*.mp4") if path.stat().st_size]:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert complaint(Run(process.returncode, out, err), code) == f"{word}; run the same command again to go on"
    assert files(bad) == before
