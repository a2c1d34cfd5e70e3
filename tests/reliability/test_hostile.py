"""Issue 8, 20 to 22 and 24: files that want to be run, names that lead elsewhere, media that call home."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reliability.conftest import Tally
from reliability.outcome import run_cli
from spear.clip import Clip
from spear.files import write_json

WEIGHTS = Path(__file__).parents[2] / "spear" / "weights"


class Trap:
    """Unpickled, it leaves a file: the canary."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._canary),)


def plain(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Trap(canary)}))


def legacy(path: Path, canary: Path) -> None:
    torch.save({"w": torch.zeros(2), "x": Trap(canary)}, path, _use_new_zipfile_serialization=False)


def zipped(path: Path, canary: Path) -> None:
    torch.save({"w": torch.zeros(2), "x": Trap(canary)}, path)


def hidden(path: Path, canary: Path) -> None:
    """A zip whose pickle is not where torch expects it, beside one that is harmless."""
    zipped(path, canary)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(Trap(canary)))


def in_metadata(path: Path, canary: Path) -> None:
    text = pickle.dumps(Trap(canary)).decode("latin-1")
    save_file({"w": torch.zeros(2)}, path, metadata={"spear": text, "format": "pt", "__reduce__": text})


FORMS = {"plain": plain, "legacy": legacy, "zipped": zipped, "hidden": hidden, "metadata": in_metadata}
PLACES: dict[str, tuple[str, str]] = {
    "perceptual": ("x/vgg19.pth", "train-lm2face --clips made --epochs 1 --perceptual x/vgg19.pth"),
    "init": ("x/lm2face.safetensors", "train-lm2face --clips made --epochs 1 --init x/lm2face.safetensors"),
    "vae": ("x/diffusion_pytorch_model.bin", "train-lm2face --clips made --preset paper --epochs 1 --vae x"),
    "vae-safe": ("x/diffusion_pytorch_model.safetensors", "train-lm2face --clips made --preset paper --vae x"),
    "weights": ("x/pytorch_model.bin", "extract-audio-features --clips made --encoder hubert --weights x"),
    "weights-safe": ("x/model.safetensors", "extract-audio-features --clips made --encoder hubert --weights x"),
    "encoder-weights": ("x/model.safetensors", "render --audio made/c0/audio.wav --ref face.png --encoder-weights x"),
    "models": ("x/a2lm.safetensors", "render --audio made/c0/audio.wav --ref face.png --models x"),
    "models-metrics": ("x/a2lm.safetensors", "metrics --clips made --models x --ld"),
    "inception": ("x/pt_inception.pth", "metrics face.mp4 face.mp4 --fid --inception-weights x/pt_inception.pth"),
    "syncnet": ("x/syncnet_v2.model", "metrics face.mp4 face.mp4 --sync --syncnet-weights x/syncnet_v2.model"),
    "landmarks": ("made/c0/landmarks.safetensors", "train-a2lm --clips made --epochs 1"),
    "features": ("made/c0/mfcc.safetensors", "train-a2lm --clips made --epochs 1"),
    "video": ("x/video.mp4", "preprocess x/video.mp4"),
    "audio": ("x/speech.wav", "render --audio x/speech.wav --ref face.png"),
    "ref": ("x/face.png", "render --audio made/c0/audio.wav --ref x/face.png"),
    "split": ("x/split.csv", "preprocess face.mp4 --split-by x/split.csv"),
    "verify": ("x/video.mp4", "verify x/video.mp4"),
    "key": ("x/key.pem", "render --audio made/c0/audio.wav --ref face.png --sign-cert x/key.pem --sign-key x/key.pem"),
    "hub-alexnet": ("hub/hub/checkpoints/alexnet-owt-7be5be79.pth", "metrics face.mp4 face.mp4 --lpips"),
    "hub-s3fd": ("hub/hub/checkpoints/s3fd-619a316812.pth", "landmarks --clips made --detector face-alignment"),
}
"""Where a file is put, and the command that reads it."""
CHOSEN = [(place, form) for k, place in enumerate(PLACES) for form in (list(FORMS)[k % 5], list(FORMS)[(k + 2) % 5])]


@pytest.fixture
def work(tmp_path: Path, made_clips: Path, portrait_png: Path, tiny_talker: Path) -> Path:
    shutil.copytree(made_clips, tmp_path / "made")
    shutil.copy(portrait_png, tmp_path / "face.png")
    shutil.copy(tiny_talker, tmp_path / "face.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "form"),
    [*CHOSEN[:1], *(pytest.param(*both, marks=pytest.mark.reliability) for both in CHOSEN[1:])],
)
def test_a_pickle_is_never_run(place: str, form: str, work: Path, tally: Tally) -> None:
    where, words = PLACES[place]
    path, canary = work / where, work / "canary"
    path.parent.mkdir(parents=True, exist_ok=True)
    if "model" in path.name:
        write_json(path.with_name("config.json"), {"model_type": "hubert"})
    if "diffusion" in path.name:
        write_json(path.with_name("config.json"), {"_class_name": "AutoencoderKL"})
    if path.name == "a2lm.safetensors":
        shutil.copy(WEIGHTS / "lm2face.safetensors", path.parent)
    if "hub" in place:  # the other file of the pair, so that the search finds both
        shutil.copytree(work / "hub", work / "torch", dirs_exist_ok=True)
        FORMS[form](path.with_name("2DFAN4-cd938726ad.zip"), canary)
    FORMS[form](path, canary)
    run = tally.judge(run_cli(*words.split(), cwd=work, timeout=120, TORCH_HOME=str(work / "hub"), HF_HOME=str(work)))
    assert not canary.exists()
    assert run.clear, run
    assert run.sound, run


def test_the_trap_works(tmp_path: Path) -> None:
    for name in ("plain", "legacy", "zipped"):
        canary = tmp_path / f"canary-{name}"
        FORMS[name](tmp_path / name, canary)
        if name == "plain":
            pickle.loads((tmp_path / name).read_bytes())
        else:
            torch.load(tmp_path / name, weights_only=False)
        assert canary.is_dir()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "..", "outside\0"])
def test_a_split_file_names_clips_and_no_paths(name: str, work: Path, tally: Tally) -> None:
    (work / "split.csv").write_text(f"clip,split\n{name},train\n")
    run = tally.judge(run_cli("preprocess", "face.mp4", "--split-by", "split.csv", cwd=work))
    assert run.clear, run
    assert run.changed == []


@pytest.mark.parametrize("name", ["../c1/mfcc", "/etc/passwd", "..", ""])
def test_a_model_names_an_encoder_and_no_path(name: str, work: Path, tally: Tally) -> None:
    """The encoder that a model wants is a part of a path in every clip's folder."""
    (work / "models").mkdir()
    for model in ("a2lm.safetensors", "lm2face.safetensors"):
        shutil.copy(WEIGHTS / model, work / "models")
    rewrite(work / "models" / "a2lm.safetensors", encoder=name)
    for words in ("metrics --clips made --ld", "render --audio made/c0/audio.wav --ref face.png"):
        run = tally.judge(run_cli(*words.split(), cwd=work, timeout=100))
        assert run.clear, run
        assert "is no name of an audio encoder" in run.line or "no audio encoder is called" in run.line, run.line
        assert run.changed == []
    run = tally.judge(run_cli("train-a2lm", "--clips", "made", "--encoder", name or "/", cwd=work, timeout=100))
    assert run.clear, run


def rewrite(path: Path, **config: Any) -> None:
    """The same model with another config, whole in itself."""
    from spear.checkpoint import read_tensors, save_tensors

    tensors, about = read_tensors(path)
    about["config"] |= config
    save_tensors(path, tensors, {k: v for k, v in about.items() if k not in ("format", "sha256")})


@pytest.mark.parametrize(
    "change",
    [
        {"source": "/etc/passwd"}, {"source": "../../../etc/passwd"}, {"speaker": "../../x"}, {"split": "../../x"},
        {"frames": -1}, {"frames": "16"}, {"crop": None}, {"files_sha256": {"../../face.png": "0"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_clip_json_that_somebody_changed_reads_and_writes_nothing_elsewhere(
    change: dict[str, Any], work: Path, tally: Tally
) -> None:
    info = work / "made" / "c0" / "clip.json"
    write_json(info, json.loads(info.read_text()) | change)
    outside = {name: (work / name).stat().st_mtime_ns for name in ("face.png", "face.mp4")}
    run = tally.judge(run_cli("extract-audio-features", "--clips", "made", "--encoder", "mfcc", cwd=work))
    assert run.done or run.clear or run.code == 3, run
    assert not run.traceback
    assert all(name.startswith("made/") for name in run.changed)
    assert outside == {name: (work / name).stat().st_mtime_ns for name in outside}
    assert run_cli("check", "made", cwd=work).code == 1


LISTS = {
    "outside.jsonl": '{"audio": "face.mp4", "ref": "face.png", "out": "../outside.mp4"}',
    "absolute.csv": "audio,ref,out\nface.mp4,face.png,/tmp/outside.mp4",
    "no-name.jsonl": r'{"audio": "face.mp4", "ref": "face.png", "out": "\ud800.mp4"}',
    "null.jsonl": r'{"audio": "face.mp4", "ref": "face.png", "out": "a\u0000.mp4"}',
    "number.jsonl": '{"audio": 1, "ref": [], "out": {}}',
    "deep.jsonl": "[" * 100_000,
    "wide.csv": "audio,ref,out\n" + "a" * 200_000 + ",b,c.mp4",
    "ref-itself.jsonl": '{"audio": "face.mp4", "ref": "face.mp4", "out": "face.mp4"}',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_renders_writes_nothing_elsewhere(name: str, work: Path, tally: Tally) -> None:
    (work / name).write_text(LISTS[name])
    run = tally.judge(run_cli("render", "--list", name, cwd=work))
    assert run.clear, run
    assert run.sound, run
    assert run.changed == []
    assert not (work.parent / "outside.mp4").exists()


def test_a_video_that_is_left_out_may_be_called_anything(tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    names = [os.fsdecode(b"caf\xe9.mp4"), "new\nline.mp4", "\u202e.mp4"]
    for name in names:
        (folder / name).write_text("no video")
    run = tally.judge(run_cli("preprocess", "videos", cwd=tmp_path))
    assert run.sound, run
    rows = [json.loads(line) for line in (tmp_path / "clips" / "skipped.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == {f"videos/{name}" for name in names}


def test_video_names_that_lead_elsewhere_stay_below_the_clips(tmp_path: Path, tiny_talker: Path, tally: Tally) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("..mp4", "...mp4", "..\\..\\x.mp4", ".. .mp4", "~.mp4", "$HOME.mp4"):
        shutil.copy(tiny_talker, folder / name)
    run = run_cli("preprocess", *sorted(str(path) for path in folder.iterdir()), "--clips", "clips", cwd=tmp_path)
    tally.add(tried=6, coped=6 if run.done else 0, tracebacks=run.traceback)
    assert run.done, run
    assert len([p for p in (tmp_path / "clips").iterdir() if p.is_dir()]) == 6
    assert {Path(name).parts[0] for name in run.changed} == {"clips"}


@pytest.fixture
def canary_server() -> Iterator[tuple[int, list[str]]]:
    """A server on the loopback: its port, and who came."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        closed = threading.Event()

        def listen() -> None:
            while not closed.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                came.append(str(address))
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], came
        closed.set()
        thread.join()


def playlists(port: int) -> dict[str, bytes]:
    """Text and boxes by which players are made to open an address."""
    url = f"http://127.0.0.1:{port}/x.ts"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n".encode(),
        "hls-key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\n/etc/passwd\n'.encode(),
        "concat": f"ffconcat version 1.0\nfile {url}\n".encode(),
        "concat-local": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        f'bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>'.encode(),
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>'.encode(),
        "pls": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n".encode(),
        "m3u": f"{url}\n".encode(),
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'.encode(),
        "rtsp": f"rtsptext\nrtsp://127.0.0.1:{port}/x\n".encode(),
    }


@pytest.mark.reliability
@pytest.mark.parametrize("kind", playlists(0))
def test_a_playlist_opens_nothing(kind: str, work: Path, canary_server: tuple[int, list[str]], tally: Tally) -> None:
    port, came = canary_server
    for suffix in ("mp4", "wav", "m3u8"):
        (work / f"x.{suffix}").write_bytes(playlists(port)[kind])
    for words in ("preprocess x.mp4", "preprocess x.m3u8", "render --audio x.wav --ref face.png", "verify x.mp4"):
        run = tally.judge(run_cli(*words.split(), cwd=work))
        assert run.clear, run
    assert came == []


ADDRESSES = [
    "http://127.0.0.1:{}/x.mp4",
    "https://127.0.0.1:{}/x.mp4",
    "rtsp://127.0.0.1:{}/x",
    "tcp://127.0.0.1:{}",
    "ftp://127.0.0.1:{}/x.mp4",
    "concat:http://127.0.0.1:{}/x.mp4",
    "hls+http://127.0.0.1:{}/x.m3u8",
]


def test_an_address_is_no_file(work: Path, canary_server: tuple[int, list[str]], tally: Tally) -> None:
    port, came = canary_server
    for address in ADDRESSES[:2]:
        asks(address.format(port), work, tally)
    assert came == []


@pytest.mark.reliability
@pytest.mark.parametrize("address", ADDRESSES[2:])
def test_other_addresses_are_no_files(
    address: str, work: Path, canary_server: tuple[int, list[str]], tally: Tally
) -> None:
    port, came = canary_server
    asks(address.format(port), work, tally)
    assert came == []


def asks(address: str, work: Path, tally: Tally) -> None:
    for words in (
        f"preprocess {address}", f"render --audio {address} --ref face.png", f"render --audio face.mp4 --ref {address}",
        f"metrics {address} {address}", f"verify {address}", f"check {address}",
        f"extract-audio-features --clips made --encoder hubert --weights {address}",
    ):  # fmt: skip
        run = tally.judge(run_cli(*words.split(), cwd=work))
        assert run.clear, run
        assert run.changed == []


WANTING = {
    "extract-audio-features --clips made --encoder hubert": "facebook/hubert-large-ll60k",
    "extract-audio-features --clips made --encoder unispeech": "microsoft/unispeech-large-1500h-cv",
    "extract-audio-features --clips made --encoder wav2vec2-conformer": "facebook/wav2vec2-conformer-rel-pos-large",
    "landmarks --clips other --detector face-alignment": "face-alignment has no weights",
    "train-lm2face --clips made --preset paper --epochs 1": "sd-vae-ft-mse",
    "train-lm2face --clips made --preset paper --epochs 1 --vae nobody/nothing": "nobody/nothing",
    "train-lm2face --clips made --epochs 1 --perceptual vgg.pth": "vgg.pth",
    "metrics face.mp4 face.mp4 --fid": "pt_inception",
    "metrics face.mp4 face.mp4 --lpips": "alexnet",
    "metrics face.mp4 face.mp4 --csim": "dlib",
}
"""Commands that need weights which are not here, and what the line must name."""


def _no_network(canary: str) -> None:
    """Take the network away, where that is allowed, and write down every attempt to use one."""
    import ctypes

    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET

    def watch(event: str, args: tuple[Any, ...]) -> None:
        names = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
        if event in names:
            with open(canary, "a") as file:
                file.write(f"{event} {args[-1]}\n")

    sys.addaudithook(watch)


@pytest.mark.reliability
@pytest.mark.parametrize("words", WANTING)
def test_without_a_network_the_missing_weights_are_named(words: str, work: Path, tally: Tally) -> None:
    canary = work.with_name(f"{work.name}-canary")
    shutil.copytree(work / "made", work / "other")
    for clip in (work / "other").iterdir():
        Clip(clip).landmarks_path.unlink()
    nowhere = {name: str(work / "empty") for name in ("HF_HOME", "TORCH_HOME", "HOME")}
    run = tally.judge(run_cli(*words.split(), cwd=work, prepare=partial(_no_network, str(canary)), **nowhere))
    assert not canary.exists(), canary.read_text()
    assert run.clear, run
    assert WANTING[words] in run.line, run.line


@pytest.mark.reliability
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("words", ["render --audio made/c0/audio.wav --ref face.png", next(iter(WANTING))])
def test_no_system_call_asks_for_a_connection(words: str, work: Path) -> None:
    trace = work / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace), sys.executable, "-m",
               "spear_cli", *words.split()]  # fmt: skip
    subprocess.run(command, cwd=work, capture_output=True, timeout=300, check=False, env=os.environ | {
        "HF_HOME": str(work / "empty")})  # fmt: skip
    asked = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert asked == []
