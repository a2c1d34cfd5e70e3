"""Adaptation to one ref: it helps on frames that it did not see, is done once, and a stopped one goes on."""

from __future__ import annotations

import shutil
import signal
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import files
from made_up import picture, track
from numpy.typing import NDArray
from tiny_nets import tiny_lm2face
from torch import nn

from spear import adapt, face_pairs
from spear.adapt import adapted_lm2face
from spear.checkpoint import load_checkpoint, read_about, save_checkpoint
from spear.errors import SpearError
from spear.face_pairs import FacePairs
from spear.nets.autoencoder import load_autoencoder
from spear.nets.lm2face import Lm2Face, Lm2FaceConfig, build_lm2face
from spear.painter import load_lm2face
from spear.points import Array
from spear.pretrained.perceptual import VGG19_FILE, _mobilenet_v2, autoencoder_perceptual
from spear.pretrained.vae import KLAutoencoder
from spear.training import InterruptedTraining
from spear.training_faces import SMALL_WEIGHTS, FaceValidation, fixed_samples

CPU = torch.device("cpu")
FRAMES = 12


def _film(points: Array, frames: list[int]) -> NDArray[np.uint8]:
    return np.stack([picture(points[i]) for i in frames])


def _save_model(folder: Path, seed: int = 0) -> Path:
    """A small preset's net, narrow and not trained, that paints a little wrong."""
    folder.mkdir()
    vae = load_autoencoder()
    torch.manual_seed(seed)
    net = build_lm2face(Lm2FaceConfig(vae.identity(), vae.latent_channels, 8, 1, references=2, bank=4), vae)
    nn.init.normal_(net.spade_net.paint.outward.weight, std=0.1)
    path = folder / "lm2face.safetensors"
    save_checkpoint(path, "lm2face", asdict(net.config), net.state_dict())
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("models") / "a")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where adapted nets go in this test, and nowhere else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spear" / "adapted"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two."""
    monkeypatch.setattr(adapt, "_BATCH", 2)
    monkeypatch.setattr(adapt, "_SCHEDULE", replace(adapt._SCHEDULE, batch_size=2))


@pytest.fixture
def ref(tmp_path: Path) -> Path:
    """Of the file only the bytes count: frames come with their points."""
    path = tmp_path / "ref.mp4"
    path.write_bytes(b"a face")
    return path


class _Seen:
    """Counts the steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[tuple[int, int, str]] = []
        self.stop_at = stop_at

    def __call__(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] == self.stop_at:
            signal.raise_signal(signal.SIGTERM)


def _adapt(
    model: Path, ref: Path, steps: int = 2, face: str = "largest", frames: int = FRAMES, seen: Any = None
) -> Lm2Face:
    points = track(frames)
    return adapted_lm2face(model, None, ref, face, points, partial(_film, points), steps, seen or _Seen())


def test_what_is_painted_gets_better_on_frames_that_were_not_there(model: Path, ref: Path) -> None:
    """Equation 8 of frames 12 to 23; the frames 0 to 11 are adapted to."""
    points, before = track(2 * FRAMES), load_lm2face(model)
    perceptual = autoencoder_perceptual(load_autoencoder())
    faces = adapt.RefFaces(before, points[FRAMES:], _film(points, [*range(FRAMES, 2 * FRAMES)]), CPU)
    samples = fixed_samples(FacePairs([faces], before.config, 6, seed=0, augment=False), CPU)

    def figures(net: Lm2Face) -> dict[str, float]:
        with torch.no_grad():
            return FaceValidation(net, perceptual, SMALL_WEIGHTS, samples)(lambda sheet: None)

    after = figures(_adapt(model, ref, steps=12))
    assert after["score"] < 0.9 * figures(before)["score"]
    assert after["psnr_hull"] > figures(before)["psnr_hull"] + 0.5


def test_it_is_kept_and_not_done_again(model: Path, ref: Path, cache: Path) -> None:
    """The net is frozen, fit for rendering, of the model's config, and not the model; nothing else stays behind."""
    vae, seen, again = load_autoencoder(), _Seen(), _Seen()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    net = _adapt(model, ref, seen=seen)
    assert seen.calls == [(1, 2, "adapting to the ref"), (2, 2, "adapting to the ref")]
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in vae.parameters())
    (kept,) = cache.iterdir()
    assert kept.suffix == ".safetensors"
    weights, about = load_checkpoint(kept, "lm2face")
    assert about["config"] == read_about(model)["config"]
    name = "spade_net.align.inward.weight"
    assert not torch.equal(weights[name].float(), load_checkpoint(model, "lm2face")[0][name])
    there = files(cache)
    same = _adapt(model, ref, seen=again)
    assert again.calls == []
    assert files(cache) == there
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in net.state_dict().items())


def test_another_ref_model_face_length_or_number_of_steps_is_another_adaptation(
    model: Path, ref: Path, cache: Path, tmp_path: Path
) -> None:
    """A copy of the ref or the model under another name is not."""
    _adapt(model, ref, steps=1)
    (first,) = files(cache).items()
    other, copy = tmp_path / "other.mp4", tmp_path / "copy.mp4"
    other.write_bytes(b"another face")
    copy.write_bytes(ref.read_bytes())
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(model.read_bytes())
    changes: list[dict[str, Any]] = [
        {"ref": other}, {"model": _save_model(tmp_path / "b", seed=1)}, {"face": "0"}, {"frames": 11}, {"steps": 2},
    ]  # fmt: skip
    usual: dict[str, Any] = {"model": model, "ref": ref, "steps": 1}
    for number, change in enumerate(changes, start=2):
        _adapt(**usual | change)
        there = files(cache)
        assert (len(there), there[first[0]]) == (number, first[1])
    for change in ({"ref": copy}, {"model": moved}, {}):
        _adapt(**usual | change)
        assert files(cache) == there


def test_a_stopped_adaptation_goes_on_as_if_it_had_not_been(
    model: Path, ref: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A signal after step 1 is obeyed before the next."""
    with pytest.raises(InterruptedTraining) as caught:
        _adapt(model, ref, steps=4, seen=_Seen(stop_at=1))
    assert str(caught.value) == "stopped after step 1; run the same command again to go on"
    assert caught.value.code == 143
    (work,) = cache.iterdir()
    assert (work / "lm2face.state" / "state.safetensors").is_file()
    seen = _Seen()
    _adapt(model, ref, steps=4, seen=seen)
    assert [call[:2] for call in seen.calls] == [(2, 4), (3, 4), (4, 4)]
    (kept,) = cache.iterdir()
    assert kept == work.with_suffix(".safetensors")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "unbroken"))
    _adapt(model, ref, steps=4)
    assert (tmp_path / "unbroken/spear/adapted" / kept.name).read_bytes() == kept.read_bytes()


def _adapt_and_die(model: Path, ref: Path, cache: Path) -> Path:
    """Two of four steps, and the folder that they leave, named as if the process that made them were dead."""
    with pytest.raises(InterruptedTraining):
        _adapt(model, ref, steps=4, seen=_Seen(stop_at=1))
    (work,) = cache.iterdir()
    machine, pid, start = work.suffix[1:].split("-")
    return work.rename(work.with_suffix(f".{machine}-{pid}-{int(start) - 1}"))


def test_what_a_dead_process_began_is_gone_on_with_by_one_other(model: Path, ref: Path, cache: Path) -> None:
    """What a third one began as well is removed, but not what a living one is doing."""
    first = _adapt_and_die(model, ref, cache)
    living = first.with_suffix(".00000000-1-1")  # of another machine, a moment ago
    shutil.copytree(first, living)
    before = files(living)
    seen = _Seen()
    _adapt(model, ref, steps=4, seen=seen)
    assert [call[:2] for call in seen.calls] == [(2, 4), (3, 4), (4, 4)]
    kept = first.with_suffix(".safetensors")
    assert sorted(cache.iterdir()) == sorted([kept, living])
    assert files(living) == before


def test_a_kill_after_the_result_leaves_nothing_for_ever(model: Path, ref: Path, cache: Path) -> None:
    work = _adapt_and_die(model, ref, cache)
    aside = cache.parent / "aside"
    work.rename(aside)
    _adapt(model, ref, steps=4)
    (kept,) = cache.iterdir()
    aside.rename(work)  # as if the process had died before it cleaned up
    seen = _Seen()
    _adapt(model, ref, steps=4, seen=seen)
    assert (seen.calls, [*cache.iterdir()]) == ([], [kept])


def test_a_longer_ref_takes_as_many_steps(model: Path, ref: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most 40 frames (in earnest 160), evenly spread; a longer clip than 10 (75) has more samples elsewhere."""
    monkeypatch.setattr(adapt, "_MOST_FRAMES", 40)
    monkeypatch.setattr(face_pairs, "_USUAL_FRAMES", 10)
    read: list[int] = []
    points = track(50)

    def film(frames: list[int]) -> NDArray[np.uint8]:
        read.extend(frames)
        return _film(points, frames)

    seen = _Seen()
    adapted_lm2face(model, None, ref, "largest", points, film, 2, seen)
    assert (len(read), read[0], read[-1]) == (40, 0, 49)
    assert set(np.diff(read)) == {1, 2}
    assert [call[:2] for call in seen.calls] == [(1, 2), (2, 2)]


@pytest.fixture
def paper_model(tmp_path: Path) -> tuple[Path, str]:
    """A tiny net of the paper preset, and the folder of its autoencoder."""
    net = tiny_lm2face(light=False)
    vae = cast(KLAutoencoder, net.vae)
    vae.net.save_pretrained(tmp_path / "vae")
    config = replace(net.config, vae=vae.identity())
    save_checkpoint(tmp_path / "lm2face.safetensors", "lm2face", asdict(config), net.state_dict())
    return tmp_path / "lm2face.safetensors", str(tmp_path / "vae")


def test_a_net_of_the_paper_preset(
    paper_model: tuple[Path, str], ref: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its perceptual net comes from torch hub's folder; here a smaller one lies under the name."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    weights = {f"features.{name}": value for name, value in _mobilenet_v2().state_dict().items()}
    torch.save(weights, tmp_path / "checkpoints" / VGG19_FILE)
    points, seen = track(FRAMES), _Seen()
    model, vae = paper_model
    net = adapted_lm2face(model, vae, ref, "largest", points, partial(_film, points), 2, seen)
    assert [call[:2] for call in seen.calls] == [(1, 2), (2, 2)]
    assert net.config.vae == net.vae.identity()
    assert len(list(cache.iterdir())) == 1


def test_a_net_of_the_paper_preset_without_vgg19(
    paper_model: tuple[Path, str], ref: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says can be done by who called `spear render`, which has no --perceptual."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    points = track(FRAMES)
    model, vae = paper_model
    with pytest.raises(SpearError) as caught:
        adapted_lm2face(model, vae, ref, "largest", points, partial(_film, points), 2, _Seen())
    assert str(caught.value).startswith(f"{tmp_path / 'checkpoints' / VGG19_FILE} is absent; ")
    assert "--perceptual" not in str(caught.value)
    assert not cache.exists()
