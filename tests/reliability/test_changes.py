"""A second run changes nothing; a changed parameter, model or input is noticed: made anew or refused, never mixed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from command_line import files
from conftest import talker

from reliability.outcome import Outcome, run_cli
from reliability.test_crash import as_a_user
from spear.checkpoint import read_tensors, save_tensors
from spear.clip import Clip, find_clips
from spear.files import read_json, write_json

pytestmark = pytest.mark.reliability

A2LM = ("train-a2lm", "--epochs", "2", "--encoder", "mfcc")
LM2FACE = ("train-lm2face", "--epochs", "1", "--frames-per-clip", "1", "--refs", "3")
RENDER = ("render", "--audio", "videos/talker_0.mp4", "--ref", "videos/talker_1.mp4", "-o", "out.mp4")
INIT = ("--init", "first/lm2face.safetensors")
LANDMARKS, FEATURES, METRICS = ("landmarks",), ("extract-audio-features", "--encoder", "mfcc"), ("metrics", "--ld")
EVERY = (("preprocess", "videos"), LANDMARKS, FEATURES, A2LM, LM2FACE, RENDER, (*METRICS, "--json"))


def _spear(*args: str, root: Path) -> Outcome:
    """Run a command with its cache below `root`."""
    where = {"XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    return run_cli(*args, cwd=root, timeout=120, prepare=as_a_user, watch=False, **where)


def _all(root: Path) -> dict[str, tuple[int, str]]:
    """Every file but TensorBoard's, and the videos that are given."""
    return {name: found for name, found in files(root).items() if not name.startswith(("videos", "models/tensorboard"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command was run once: three videos, one a split; tests work on copies."""
    root = tmp_path_factory.mktemp("made")
    (root / "videos").mkdir()
    for seed in range(3):
        talker(root / "videos" / f"talker_{seed}.mp4", seed, seconds=0.6)
    for args in EVERY:
        outcome = _spear(*args, root=root)
        assert outcome.done, outcome
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_a_second_run_changes_nothing(root: Path) -> None:
    """But for `render`, whose work is what it is asked for: it writes the same bytes again."""
    for args in EVERY:
        assert _spear(*args, root=root).done  # of a copy: what is not the file itself is noticed once
    before, tensorboard = _all(root), len(list((root / "models/tensorboard").rglob("*")))
    for args in EVERY:
        outcome = _spear(*args, root=root)
        assert outcome.done, outcome
        after, written = _all(root), {"out.mp4", "out.mp4.json"} if args is RENDER else set()
        assert after.keys() == before.keys()
        assert {name for name in after if after[name] != before[name]} == written
        assert all(after[name][1] == before[name][1] for name in written)
        before = after
    assert len(list((root / "models/tensorboard").rglob("*"))) == tensorboard


# --- what may change


def _clips(root: Path) -> list[Clip]:
    return find_clips(root / "clips")


def _other_video(root: Path) -> None:
    """Another one of the same name, size and date."""
    path = root / "videos/talker_1.mp4"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"lavf"))  # the name of what wrote it
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _older_format(root: Path) -> None:
    path = _clips(root)[0].info_path
    write_json(path, read_json(path) | {"format": 1})


def _resaved(path: Path, **changes: object) -> None:
    tensors, about = read_tensors(path)
    save_tensors(path, tensors, about | changes)


def _other_detector(root: Path, clips: slice = slice(None)) -> None:
    for clip in _clips(root)[clips]:
        _resaved(clip.landmarks_path, settings={"detector": "another"})


def _two_detectors(root: Path) -> None:
    _other_detector(root, slice(1))


def _other_encoder(root: Path, clips: slice = slice(None)) -> None:
    for clip in _clips(root)[clips]:
        _resaved(clip.features_path("mfcc"), settings={"weights": "others"})


def _two_encoders(root: Path) -> None:
    split = [clip.info.split for clip in _clips(root)].index("val")
    _other_encoder(root, slice(split, split + 1))


def _clip_of(root: Path, split: str, **changes: object) -> None:
    (clip,) = [clip for clip in _clips(root) if clip.info.split == split]
    clip.write_info(replace(clip.info, **changes))  # type: ignore[arg-type]


def _other_val(root: Path) -> None:
    """The val clip was made anew, with all that belongs to it."""
    _clip_of(root, "val", source_sha256="1")
    assert _spear(*LANDMARKS, root=root).done
    assert _spear(*FEATURES, root=root).done


def _retrained(root: Path) -> None:
    assert _spear(*A2LM, "--seed", "1", "--restart", root=root).done


def _state_of_another(root: Path) -> None:
    assert _spear(*A2LM, "--seed", "1", "--models", "others", root=root).done
    shutil.copytree(root / "others/a2lm.state", root / "models/a2lm.state", dirs_exist_ok=True)


def _lost_best(root: Path) -> None:
    (root / "models/a2lm.safetensors").unlink()


def _swapped(root: Path) -> None:
    shutil.copy(root / "models/a2lm.safetensors", root / "models/lm2face.safetensors")


def _other_init(root: Path) -> None:
    """A checkpoint to go on from, and a training that does; then another one under its name."""
    shutil.copytree(root / "models", root / "first")
    assert _spear(*LM2FACE, *INIT, "--restart", root=root).done
    shutil.copy(root / "models/lm2face.safetensors", root / "first/lm2face.safetensors")


def _other_ref(root: Path) -> None:
    shutil.copy(root / "videos/talker_2.mp4", root / "videos/talker_1.mp4")


def _other_audio(root: Path) -> None:
    shutil.copy(root / "videos/talker_2.mp4", root / "videos/talker_0.mp4")


def _nothing(root: Path) -> None:
    pass


@dataclass(frozen=True)
class Row:
    """A change, a command after it, and what is expected: files that are made anew and no others, or the line in which
    it refuses, having changed nothing."""

    change: Callable[[Path], None]
    args: tuple[str, ...]
    anew: tuple[str, ...] = ()
    refused: str = ""


EXTRACT = "spear extract-audio-features --encoder mfcc"
OLDER = r"clips/talker_0/clip\.json has format 1, this spear reads 2; run `spear preprocess` again"
MIXED = r"clips/talker_\d/{}\.safetensors was made with other settings than the rest; run `{}` again"
TWO_DETECTORS = MIXED.format("landmarks", "spear landmarks")
UNKNOWN = (
    r"clips/talker_\d/mfcc\.safetensors was made with other settings than a2lm was trained on; "
    f"run `{EXTRACT}` with the weights of the training"
)
LOST = r"models/a2lm\.safetensors is gone, which this training made; restore a copy, or use --restart to begin anew"
WRONG_KIND = r"models/lm2face\.safetensors holds a checkpoint of kind 'a2lm', 'lm2face' is needed here; give that one"


def _other(net: str, setting: str) -> str:
    then = "use --restart to begin anew, or another --models"
    return rf"models/{net}\.state was trained with other settings \({setting}\); {then}"


OUT, SCORES = ("out.mp4", "out.mp4.json"), ("cache/spear/metrics/*/*.safetensors",)
MATRIX = {
    "preprocess: another face": Row(_nothing, (*EVERY[0], "--face", "0"), ("clips/*/clip.json",)),
    "preprocess: another video of that name, size and date": Row(_other_video, EVERY[0], ("clips/talker_1/clip.json",)),
    "preprocess: another split": Row(_nothing, (*EVERY[0], "--seed", "5"), ("clips/*/clip.json",)),
    "preprocess: an older format": Row(_older_format, EVERY[0], ("clips/talker_0/clip.json",)),
    "landmarks: an older format": Row(_older_format, LANDMARKS, refused=OLDER),
    "landmarks: another detector": Row(_other_detector, LANDMARKS, ("clips/*/landmarks.safetensors",)),
    "landmarks: two detectors": Row(_two_detectors, LANDMARKS, ("clips/talker_0/landmarks.safetensors",)),
    "features: other settings": Row(_other_encoder, FEATURES, ("clips/*/mfcc.safetensors",)),
    "features: fewer copies": Row(_nothing, (*FEATURES, "--changed", "1"), ("clips/*/mfcc.safetensors",)),
    "a2lm: two detectors": Row(_two_detectors, A2LM, refused=TWO_DETECTORS),
    "a2lm: features of two settings": Row(_two_encoders, A2LM, refused=MIXED.format("mfcc", EXTRACT)),
    "a2lm: another detector": Row(_other_detector, A2LM, refused=_other("a2lm", "landmarks")),
    "a2lm: another encoder": Row(_other_encoder, A2LM, refused=_other("a2lm", "encoder_settings")),
    "a2lm: another val split": Row(_other_val, A2LM, refused=_other("a2lm", "val")),
    "a2lm: another seed": Row(_nothing, (*A2LM, "--seed", "1"), refused=_other("a2lm", "seed")),
    "a2lm: another pose": Row(_nothing, (*A2LM, "--pose", "raw"), refused=_other("a2lm", "pose")),
    "a2lm: another rate": Row(_nothing, (*A2LM, "--learning-rate", "1"), refused=_other("a2lm", "learning_rate")),
    "a2lm: another preset": Row(_nothing, (*A2LM, "--preset", "paper"), refused=_other("a2lm", ".*preset.*")),
    "a2lm: the state of another": Row(_state_of_another, A2LM, refused=_other("a2lm", "seed")),
    "a2lm: the best is lost": Row(_lost_best, A2LM, refused=LOST),
    "lm2face: another a2lm, which it does not read": Row(_retrained, LM2FACE),
    "lm2face: two detectors": Row(_two_detectors, LM2FACE, refused=TWO_DETECTORS),
    "lm2face: another detector": Row(_other_detector, LM2FACE, refused=_other("lm2face", "landmarks")),
    "lm2face: other references": Row(_nothing, (*LM2FACE, "--refs", "4"), refused=_other("lm2face", "refs")),
    "lm2face: another --init of that name": Row(_other_init, (*LM2FACE, *INIT), refused=_other("lm2face", "init")),
    "metrics: another a2lm": Row(_retrained, METRICS, SCORES),
    "metrics: another detector": Row(_other_detector, METRICS, SCORES),
    "metrics: features that the model does not know": Row(_other_encoder, METRICS, refused=UNKNOWN),
    "render: another ref of that name": Row(_other_ref, RENDER, (*OUT, "cache/spear/refs/*.safetensors")),
    "render: other speech of that name": Row(_other_audio, RENDER, OUT),
    "render: another a2lm": Row(_retrained, RENDER, OUT),
    "render: another face": Row(_nothing, (*RENDER, "--face", "0"), ("out.mp4.json", "cache/spear/refs/*.safetensors")),
    "render: a2lm in place of lm2face": Row(_swapped, RENDER, refused=WRONG_KIND),
}


@pytest.mark.parametrize("name", MATRIX)
def test_what_has_changed_is_noticed(name: str, root: Path) -> None:
    row = MATRIX[name]
    row.change(root)
    before = _content(root)
    outcome = _spear(*row.args, root=root)
    after = _content(root)
    changed = [path for path in after.keys() | before.keys() if after.get(path) != before.get(path)]
    if row.refused:
        assert re.fullmatch(row.refused, outcome.line), outcome.line
        assert changed == []
        return
    assert outcome.done, outcome
    for pattern in row.anew:
        assert any(Path(path).match(pattern) for path in changed), (pattern, changed)
    assert all(any(Path(path).match(pattern) for pattern in row.anew) for path in changed), changed
    shutil.rmtree(root / "cache")  # what is kept there makes no difference
    assert _spear(*row.args, root=root).done
    assert (
        _content(root).items() >= {path: what for path, what in after.items() if not path.startswith("cache")}.items()
    )


def _content(root: Path) -> dict[str, str]:
    """Digest of every file; the list of clips that trainings keep is nobody's output."""
    return {path: digest for path, (_, digest) in _all(root).items() if "/.index/" not in path}
