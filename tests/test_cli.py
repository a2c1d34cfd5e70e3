"""The seven commands through the real command line: what they make, and the one line that bad input gets."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from safetensors import safe_open

from spear.video import VideoWriter

COMMANDS = ("preprocess", "extract-audio-features", "landmarks", "train-a2lm", "train-lm2face", "render", "metrics")
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "numpy", "scipy", "mediapipe", "av", "cv2", "decord"}


def spear(
    *args: str | Path, cwd: Path, before: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "spear_cli", *map(str, args)], cwd=cwd, text=True, capture_output=True, timeout=300,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | env, preexec_fn=before, check=False,
    )  # fmt: skip


def done(run: subprocess.CompletedProcess[str]) -> str:
    """What a command that went well said."""
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


def complaint(run: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line of a command that failed, without `error: `."""
    assert run.returncode == code, run.stdout + run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert run.stderr.endswith("\n")
    return run.stderr.removeprefix("error: ").rstrip("\n")


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder, hidden ones too: time and digest."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- help, version, usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, tmp_path: Path) -> None:
    text = done(spear(command, "--help", cwd=tmp_path, COLUMNS="200"))
    assert f"Usage: spear {command} [OPTIONS]" in text
    assert f": spear {command} " in text.split("Example")[1]


def test_help_lists_the_commands_and_completion(tmp_path: Path) -> None:
    text = done(spear("--help", cwd=tmp_path, COLUMNS="200"))
    commands = [line.split()[1] for line in text.split("Commands")[1].splitlines()[1:] if line.startswith("│ ")]
    assert commands == list(COMMANDS)
    assert "--install-completion" in text
    assert "--show-completion" in text


def test_completion_offers_the_commands(tmp_path: Path) -> None:
    words = {"_SPEAR_COMPLETE": "complete_bash", "COMP_WORDS": "spear train", "COMP_CWORD": "1"}
    entry = Path(sys.executable).with_name("spear")
    run = subprocess.run(
        [entry], env=os.environ | words, cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True
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
    """Processor time, the best of three: the machine may be busy with other tests."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done(spear("--help", cwd=tmp_path))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4


def test_without_arguments_comes_the_help(tmp_path: Path) -> None:
    run = spear(cwd=tmp_path)
    assert run.returncode == 2
    assert "Usage: spear [OPTIONS] COMMAND" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nope"], "no such option: --nope; see `spear --help`"),
        (["sing"], "no such command 'sing'; see `spear --help`"),
        (["landmarks", "--nope"], "no such option: --nope; see `spear landmarks --help`"),
        (["preprocess"], "missing argument 'videos'; see `spear preprocess --help`"),
        (["render", "--ref", "face.mp4"], "missing option '--audio'; see `spear render --help`"),
        (
            ["metrics", "out.mp4"],
            "invalid value: give both PRED and TRUTH, or neither for the test split; see `spear metrics --help`",
        ),
    ],
)
def test_wrong_usage(args: list[str], message: str, tmp_path: Path) -> None:
    assert complaint(spear(*args, cwd=tmp_path), code=2) == message


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bad_input(tmp_path_factory: pytest.TempPathFactory, tiny_video: Path, speech_wav: Path, portrait_png: Path) -> Path:
    """A folder with one of each kind of file that cannot be used, and of the good ones that go with them."""
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


_NO_MEDIA = "cannot be read as video, picture or sound (invalid data found when processing input)"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("missing", "missing does not exist; give a video or a folder of videos"),
        ("empty", "no video in empty; give a folder with .mp4, .mov, .mkv ... files"),
        ("text.mp4", f"text.mp4 {_NO_MEDIA}; give a video or a picture with a face"),
        ("cut.mp4", "cut.mp4 ends after 15 of 50 frames; it is truncated: replace it"),
        ("wall.mp4", "wall.mp4 shows no face in any of 10 frames; give footage with a visible face"),
        ("speech.wav", "speech.wav has no video track; give a video or a picture with a face"),
        (
            "cut.mp4 text.mp4 --jobs 2",
            "none of 2 videos is usable; clips/skipped.jsonl says why, the first: cut.mp4 ends after 15 of 50 frames; "
            "it is truncated: replace it",
        ),
        ("good.mp4 --face 7", "good.mp4 has no face number 7; it shows 1: give --face largest, or a number below 1"),
        ("good.mp4 --face left", "--face left is neither `largest` nor a number from 0 on (0 is the leftmost face)"),
        ("good.mp4 --layout tree", "--layout tree is not one of auto, mead, flat"),
        (
            "good.mp4 --layout mead",
            "good.mp4 is not <M|W>NNN/video/<view>/<emotion>/level_<k>/<NNN>.mp4; use --layout auto or flat",
        ),
        ("good.mp4 --split-by day", "--split-by day is not one of clip, speaker"),
        ("good.mp4 --on-missing-face cry", "--on-missing-face cry is not one of hold, skip, fail"),
        (
            "good.mp4 --clips notes.txt/clips",
            "cannot write in notes.txt/clips: Not a directory; choose another folder or change its permissions",
        ),
    ],
)
def test_preprocess_refuses(args: str, message: str, bad: Path) -> None:
    before = files(bad)
    assert complaint(spear("preprocess", *args.split(), cwd=bad)) == message
    after = files(bad)
    after.pop("clips/skipped.jsonl", None)
    assert after == before


def test_preprocess_goes_on_without_the_unusable(bad: Path) -> None:
    said = done(spear("preprocess", "good.mp4", "text.mp4", "wall.mp4", cwd=bad))
    assert said.splitlines()[0] == "1 clips done, 0 already there, 2 left out"
    assert [json.loads(line) for line in (bad / "clips/skipped.jsonl").read_text().splitlines()] == [
        {"reason": f"text.mp4 {_NO_MEDIA}; give a video or a picture with a face", "source": "text.mp4"},
        {
            "reason": "wall.mp4 shows no face in any of 10 frames; give footage with a visible face",
            "source": "wall.mp4",
        },
    ]


_NO_CLIPS = "clips is not a folder; run `spear preprocess VIDEOS` first, or give the folder with --clips"


@pytest.mark.parametrize("command", ["extract-audio-features", "landmarks", "train-a2lm", "train-lm2face"])
def test_stages_want_clips_first(command: str, tmp_path: Path) -> None:
    assert complaint(spear(command, cwd=tmp_path)) == _NO_CLIPS
    assert files(tmp_path) == {}


def test_an_empty_clips_folder_is_none(bad: Path) -> None:
    message = "no clips in empty; run `spear preprocess VIDEOS` first, or give the folder with --clips"
    assert complaint(spear("landmarks", "--clips", "empty", cwd=bad)) == message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--pred missing.mp4", "missing.mp4 does not exist; give a video or a picture with a face"),
        ("--pred text.mp4", f"text.mp4 {_NO_MEDIA}; give a video or a picture with a face"),
        ("--pred cut.mp4", "cut.mp4 ends after 15 of 50 frames; it is truncated: replace it"),
        (
            "--pred wall.mp4",
            "wall.mp4 is 128x128, good.mp4 is 320x320; scores need equal sizes: scale or crop one of them to the other "
            "first",
        ),
    ],
)
def test_metrics_refuses(args: str, message: str, bad: Path) -> None:
    before = files(bad)
    assert complaint(spear("metrics", args.removeprefix("--pred "), "good.mp4", "--psnr", cwd=bad)) == message
    assert files(bad) == before


def test_metrics_wants_models_first(tmp_path: Path) -> None:
    message = "no a2lm.safetensors in models; run `spear train-a2lm` first, or give a folder with --models"
    assert complaint(spear("metrics", cwd=tmp_path)) == message


def test_fid_says_which_weights_it_lacks(bad: Path) -> None:
    run = spear("metrics", "good.mp4", "good.mp4", "--fid", cwd=bad, TORCH_HOME=str(bad / "hub"))
    name = "pt_inception-2015-12-05-6726825d.pth"
    message = complaint(run)
    assert message.startswith(f"no Inception weights at {bad}/hub/hub/checkpoints/{name}, FID needs them; download ")
    assert message.endswith(f"/{name} and put it there, or give it with `--inception-weights FILE`")


# --- the whole chain on tiny footage ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Where the seven commands were run once, and what each of them said."""

    folder: Path
    said: dict[str, str]


STAGES = {
    "preprocess": ["videos"],
    "extract-audio-features": ["--encoder", "mfcc"],
    "landmarks": [],
    "train-a2lm": ["--epochs", "1"],
    "train-lm2face": ["--epochs", "1", "--frames-per-clip", "1"],
}
"""The stages that keep what they have made, with options that make them short."""


@pytest.fixture(scope="session")
def chain(
    tmp_path_factory: pytest.TempPathFactory, talking_videos: Path, speech_wav: Path, portrait_png: Path
) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    shutil.copytree(talking_videos, folder / "videos")
    shutil.copy(speech_wav, folder / "speech.wav")
    shutil.copy(portrait_png, folder / "face.png")
    said = {name: done(spear(name, *options, cwd=folder)) for name, options in STAGES.items()}
    ref = ("--audio", "speech.wav", "--ref", "videos/talker_0.mp4")
    said["render"] = done(spear("render", *ref, "-o", "out.mp4", cwd=folder))
    return Chain(folder, said)


needs_chain = pytest.mark.xdist_group("chain")
"""On one xdist worker, so that the chain is run once."""


@needs_chain
def test_chain_makes_the_files_between_the_stages(chain: Chain) -> None:
    clips = {f"clips/talker_{i}/{name}" for i in range(4) for name in ("clip.json", "face.mp4", "audio.wav", "landmarks.safetensors", "mfcc.safetensors")}  # fmt: skip
    assert {name for name in files(chain.folder) if name.startswith("clips/")} == clips
    models = {name.split("/")[1] for name in files(chain.folder) if name.startswith("models/")}
    assert models == {
        f"{net}{suffix}" for net in ("a2lm", "lm2face") for suffix in (".safetensors", ".last.safetensors", ".log.jsonl", ".state")
    } | {"tensorboard", "lm2face.samples"}  # fmt: skip
    splits = [json.loads((chain.folder / f"clips/talker_{i}/clip.json").read_text())["split"] for i in range(4)]
    assert sorted(splits) == ["test", "train", "train", "val"]
    assert chain.said["preprocess"] == "4 clips done, 0 already there, 0 left out\n"
    assert chain.said["train-a2lm"].startswith("models/a2lm.safetensors: ld ")


@needs_chain
def test_chain_files_have_the_shapes_of_the_design(chain: Chain) -> None:
    clip = chain.folder / "clips/talker_0"
    info = json.loads((clip / "clip.json").read_text())
    assert (info["frames"], info["fps"], len(info["crop"])) == (50, 25, 50)
    with safe_open(clip / "landmarks.safetensors", framework="np") as file:
        assert file.get_tensor("points").shape == (50, 131, 2)
        assert file.get_tensor("points").dtype == np.float32
        assert file.get_tensor("confidence").shape == (50,)
    with safe_open(clip / "mfcc.safetensors", framework="np") as file:
        assert file.get_tensor("features").shape[0] == 50
        assert file.get_tensor("features").dtype == np.float16
    with wave.open(str(clip / "audio.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (16000, 1, 32000)
    with av.open(str(clip / "face.mp4")) as face:
        stream = face.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 256, 256)
        assert (stream.average_rate, stream.frames) == (25, 50)


@needs_chain
@pytest.mark.parametrize("command", STAGES)
def test_a_second_run_does_nothing(command: str, chain: Chain) -> None:
    before = files(chain.folder)
    again = done(spear(command, *STAGES[command], cwd=chain.folder))
    assert files(chain.folder) == before
    if command in ("train-a2lm", "train-lm2face"):
        assert sorted(again.split(": ")[1].split(", ")) == sorted(chain.said[command].rstrip().split(": ")[1].split(", ")) or again  # fmt: skip
    else:
        assert again == "0 clips done, 4 already there, 0 left out\n"


def played(path: Path) -> tuple[int, tuple[int, int], float]:
    """Frames, size and seconds of sound of a video, all of it decoded."""
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == 25
        frames = samples = 0
        for packet in container.demux(video, sound):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    frames += 1
                else:
                    samples += frame.samples
        return frames, (video.width, video.height), samples / sound.rate


@needs_chain
def test_render_has_the_length_of_the_speech_and_the_size_of_the_ref(chain: Chain) -> None:
    frames, size, seconds = played(chain.folder / "out.mp4")
    assert (frames, size) == (50, (320, 320))
    assert abs(seconds - 2.0) <= 1 / 25
    assert chain.said["render"].splitlines()[0] == "models: models"
    assert chain.said["render"].splitlines()[-1].startswith("out.mp4: 50 frames of 320x320, ")


@needs_chain
def test_render_with_a_picture_and_the_models_that_ship(chain: Chain, tmp_path: Path) -> None:
    said = done(
        spear("render", "--audio", chain.folder / "speech.wav", "--ref", chain.folder / "face.png", cwd=tmp_path)
    )
    assert said.splitlines()[0].endswith("spear/weights")
    assert list(files(tmp_path)) == ["out.mp4"]
    assert played(tmp_path / "out.mp4")[:2] == (50, (320, 320))


@needs_chain
def test_metrics_of_two_videos(chain: Chain) -> None:
    pair, which = ("out.mp4", "videos/talker_0.mp4"), ("--ld", "--lvd", "--psnr", "--ssim")
    value = json.loads(done(spear("metrics", *pair, *which, "--json", cwd=chain.folder)))
    assert {"protocol", "per_clip", "notes"} < set(value)


@needs_chain
def test_metrics_of_the_test_split(chain: Chain) -> None:
    value = json.loads(done(spear("metrics", "--ld", "--lvd", "--psnr", "--ssim", "--json", cwd=chain.folder)))
    assert {"protocol", "per_clip", "notes"} < set(value)
    table = done(spear("metrics", "--ld", cwd=chain.folder))
    assert "LD" in table
    assert "protocol" in table


# --- bad input that needs the chain ----------------------------------------------------------------------------------


@pytest.fixture
def half_done(chain: Chain, tmp_path: Path) -> Path:
    """Clips as `spear preprocess` leaves them."""
    shutil.copytree(chain.folder / "clips", tmp_path / "clips", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path


@needs_chain
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train-a2lm", "no audio features in clips; run `spear extract-audio-features` first"),
        (
            "train-a2lm --encoder hubert",
            "no hubert.safetensors in clips/{train}; run `spear extract-audio-features --encoder hubert` first",
        ),
        ("train-a2lm --encoder ears", "--encoder ears is not one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper"),
        ("train-a2lm --preset huge", "--preset huge is not one of small, paper"),
        ("train-a2lm --pose yoga", "--pose yoga is not one of rigid, raw"),
        ("train-lm2face", "no landmarks.safetensors in clips/{train}; run `spear landmarks` first"),
        ("train-lm2face --preset huge", "--preset huge is not one of small, paper"),
        ("landmarks --detector eyes", "--detector eyes is not one of mediapipe, face-alignment"),
        (
            "extract-audio-features --encoder ears",
            "no audio encoder is called ears; choose one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper",
        ),
        (
            "extract-audio-features --encoder hubert",
            "the weights facebook/hubert-large-ll60k of the encoder hubert are not on this computer; run "
            "`hf download facebook/hubert-large-ll60k`, or point to a folder that holds them with --weights FOLDER",
        ),
    ],
)  # fmt: skip
def test_stages_want_the_stage_before_and_known_words(command: str, message: str, half_done: Path) -> None:
    before = files(half_done)
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(half_done / "hub")}
    train = next(
        path.parent.name for path in sorted(half_done.glob("clips/*/clip.json")) if '"train"' in path.read_text()
    )
    assert complaint(spear(*command.split(), cwd=half_done, **hub)) == message.format(train=train)
    assert files(half_done) == before


@needs_chain
def test_the_paper_preset_says_which_autoencoder_it_lacks(chain: Chain, tmp_path: Path) -> None:
    clips = ("--clips", chain.folder / "clips")
    message = complaint(
        spear("train-lm2face", *clips, "--preset", "paper", cwd=tmp_path, HF_HOME=str(tmp_path / "hub"))
    )
    assert message == (
        "the autoencoder stabilityai/sd-vae-ft-mse is neither a folder nor in the hub's cache; "
        "fetch it with `hf download stabilityai/sd-vae-ft-mse` or give a folder with --vae"
    )


@needs_chain
@pytest.mark.parametrize("command", ["train-a2lm", "train-lm2face"])
def test_training_wants_a_folder_that_can_be_written(command: str, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("A file, not a folder.\n")
    run = spear(
        command, "--clips", chain.folder / "clips", "--models", "notes.txt/models", "--epochs", "1", cwd=tmp_path
    )
    assert complaint(run) == "Not a directory (notes.txt/models); check the path, its permissions and the free space"
    assert list(files(tmp_path)) == ["notes.txt"]


@needs_chain
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--audio missing.wav", "missing.wav does not exist; give a file with speech"),
        ("--audio nothing.wav", "nothing.wav holds no sound at all (0 samples); give a file with speech"),
        ("--audio face.png", "face.png has no audio track; give a file with speech"),
        ("--audio mute.mp4", "mute.mp4 has no audio track; give a file with speech"),
        ("--audio text.mp4", f"text.mp4 {_NO_MEDIA}; give a file with speech"),
        ("--ref text.mp4", f"text.mp4 {_NO_MEDIA}; give a video or a picture with a face"),
        ("--ref cut.mp4", "cut.mp4 ends after 15 of 50 frames; it is truncated: replace it"),
        ("--ref wall.mp4", "wall.mp4 shows no face in any of 10 frames; give footage with a visible face"),
        ("--ref empty", "empty is a folder; give a video or a picture with a face"),
        ("--face 7", "face.png has no face number 7; it shows 1: give --face largest, or a number below 1"),
        ("--face left", "--face left is neither `largest` nor a number from 0 on (0 is the leftmost face)"),
        ("-o notes.txt/out.mp4", "cannot write notes.txt/out.mp4: File exists; choose another folder or change its permissions"),
        ("-o out.txt", "out.txt does not end in .mp4, .mov, .mkv; give the video a name that does"),
        ("-o face.png", "face.png does not end in .mp4, .mov, .mkv; give the video a name that does"),
        ("--ref good.mp4 -o good.mp4", "good.mp4 is the audio or the ref itself; give another -o"),
        ("--models empty", "no a2lm.safetensors in empty; run `spear train-a2lm` first, or give another folder with --models"),
        (
            "--models swapped",
            "swapped/a2lm.safetensors holds a checkpoint of kind 'lm2face', 'a2lm' is needed here; give that one",
        ),
    ],
)  # fmt: skip
def test_render_refuses(args: str, message: str, chain: Chain, bad: Path) -> None:
    for here, there in (
        ("a2lm", "a2lm"),
        ("lm2face", "lm2face"),
        ("swapped/a2lm", "lm2face"),
        ("swapped/lm2face", "a2lm"),
    ):
        link = bad / ("." if "/" in here else "models") / f"{here}.safetensors"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(chain.folder / f"models/{there}.safetensors")
    before = files(bad)
    usual = ["--audio", "speech.wav", "--ref", "face.png", "-o", "out.mp4"]
    assert complaint(spear("render", *usual, *args.split(), cwd=bad)) == message
    assert files(bad) == before


@needs_chain
def test_a_full_disk_leaves_nothing_half_written(chain: Chain, bad: Path) -> None:
    """The limit on file sizes stands in for the full disk: writing fails in the middle of the video."""
    before = files(bad)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    run = spear(
        "render", "--audio", "speech.wav", "--ref", "good.mp4", "--models", chain.folder / "models", "-o", "out.mp4",
        cwd=bad, before=little_room,
    )  # fmt: skip
    assert complaint(run).startswith("cannot write ")
    assert files(bad) == before
