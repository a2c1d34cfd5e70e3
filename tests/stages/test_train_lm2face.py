"""`train-lm2face`: learns, writes what render reads and sheets to look at, goes on where it was stopped."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from made_up import make_clip

from spear.checkpoint import load_checkpoint, read_about, read_tensors, save_checkpoint
from spear.errors import SpearError
from spear.nets.autoencoder import load_autoencoder
from spear.nets.lm2face import Lm2FaceConfig
from spear.pretrained.perceptual import _mobilenet_v2
from spear.stages import train_lm2face as stage
from spear.stages.train_lm2face import PRESETS, Weights, load_lm2face, train_lm2face
from spear.training import InterruptedTraining

BATCH = 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for i, split in enumerate(["train", "train", "val"]):
        make_clip(root / f"c{i}", frames=12, split=split, seed=i)
    return root


@pytest.fixture(scope="module")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae") / "tiny"
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both presets in sizes of seconds: narrow nets, two references, batches of two."""
    sizes = {64: 8, 3: 1, 4: 2}  # width, blocks, references
    defaults = Lm2FaceConfig.__init__.__defaults__
    smaller = tuple(sizes.get(value, value) if type(value) is int else value for value in defaults)
    monkeypatch.setattr(Lm2FaceConfig.__init__, "__defaults__", smaller)
    paper = Lm2FaceConfig.paper
    monkeypatch.setattr(stage.Lm2FaceConfig, "paper", lambda vae: replace(paper(vae), width=8, blocks=2))
    for name, (schedule, weights) in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, (replace(schedule, batch_size=BATCH), weights))


def test_it_learns_and_writes_a_checkpoint_that_describes_itself(clips: Path, tmp_path: Path) -> None:
    before = train_lm2face(clips, tmp_path / "short", frames_per_clip=1, epochs=1)[1].figures
    report, trained = train_lm2face(clips, tmp_path / "long", frames_per_clip=1, epochs=16, learning_rate=3e-3)
    figures = trained.figures
    assert report.skipped == []
    assert figures["perceptual"] < 0.95 * before["perceptual"]
    assert figures["score"] < before["score"]
    assert figures["psnr_crop"] > figures["psnr_hull"] > before["psnr_hull"] + 0.5  # dB
    about = read_about(tmp_path / "long" / "lm2face.safetensors")
    vae = load_autoencoder()
    assert (about["kind"], about["preset"], about["seed"]) == ("lm2face", "small", 0)
    assert about["config"] == {
        "vae": vae.identity(), "latent": vae.latent_channels, "width": 8, "blocks": 1, "references": 2, "light": True,
    }  # fmt: skip
    assert about["training"]["figures"] == figures
    weights, _ = load_checkpoint(tmp_path / "long" / "lm2face.safetensors", "lm2face")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(name.startswith("spade_net.") for name in weights)  # neither autoencoder nor critic
    net = load_lm2face(tmp_path / "long" / "lm2face.safetensors")
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_sheets_to_look_at(clips: Path, tmp_path: Path) -> None:
    train_lm2face(clips, tmp_path, frames_per_clip=1, epochs=1)
    sheets = list((tmp_path / "lm2face.samples").iterdir())
    assert [path.name for path in sheets] == ["step_000001.png"]
    # one sample: reference, masked target, sketch, warped, generated, blended, truth, at half size
    sheet = cv2.imread(str(sheets[0])).reshape(128, 7, 128, 3).swapaxes(0, 1).astype(int)
    truth, masked, blended = sheet[6], sheet[1], sheet[5]
    assert np.array_equal(masked[:64], truth[:64])
    assert not masked[64:].any()
    assert np.array_equal(blended[:56], truth[:56])
    assert 0 < np.abs(blended - truth).mean() < 20


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 3 of 4, when the critic (from half of the run on) has taken one step."""
    train_lm2face(clips, tmp_path / "unbroken", frames_per_clip=1, epochs=4)
    critic_loss = stage.critic_loss

    def stop(*args: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return critic_loss(*args)

    monkeypatch.setattr(stage, "critic_loss", stop)
    with pytest.raises(InterruptedTraining, match="stopped after step 3"):
        train_lm2face(clips, tmp_path / "stopped", frames_per_clip=1, epochs=4)
    monkeypatch.setattr(stage, "critic_loss", critic_loss)
    train_lm2face(clips, tmp_path / "stopped", frames_per_clip=1, epochs=4)
    one, two = (read_tensors(tmp_path / n / "lm2face.state" / "state.safetensors") for n in ("unbroken", "stopped"))
    assert one[1]["step"] == two[1]["step"] == 4
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(value, two[0][name]) for name, value in one[0].items())
    assert any(name.startswith("optimiser.critic.") for name in one[0])


def test_losses_of_equation_8(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's weights, and the critic from the first step on; in the small preset it comes in at half time."""
    assert PRESETS["paper"][1] == Weights(reconstruction=1.0, perceptual=4.0, gan=1.0, mouth=2.5, critic_from=0.0)
    shown: list[str] = []
    train_lm2face(clips, tmp_path, frames_per_clip=1, epochs=2, progress=lambda done, total, what: shown.append(what))
    assert [[word for word in line.split() if word.isalpha()] for line in shown] == [
        ["reconstruction", "perceptual", "mouth"],
        ["reconstruction", "perceptual", "mouth", "gan", "critic"],
    ]


def test_autoencoder_and_perceptual_net_stay_as_they_are(clips: Path, tmp_path: Path) -> None:
    vae = load_autoencoder()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    train_lm2face(clips, tmp_path, frames_per_clip=1, epochs=1)
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())


def test_paper_preset(clips: Path, kl_folder: Path, tmp_path: Path) -> None:
    """Through diffusers' AutoencoderKL and a perceptual net from a file, tiny ones; rendering needs the same VAE."""
    torch.save({f"features.{n}": v for n, v in _mobilenet_v2().state_dict().items()}, tmp_path / "mobilenet.pth")
    options: dict[str, Any] = {
        "preset": "paper", "vae": str(kl_folder), "perceptual": tmp_path / "mobilenet.pth", "frames_per_clip": 1,
    }  # fmt: skip
    train_lm2face(clips, tmp_path, epochs=2, **options)
    path = tmp_path / "lm2face.safetensors"
    net = load_lm2face(path, str(kl_folder))
    assert (net.config.latent, net.config.references, net.config.light) == (4, 1, False)
    assert net.config.vae == net.vae.identity()
    schedule = PRESETS["paper"][0]
    assert (schedule.epochs, schedule.learning_rate) == (300, 1e-4)  # section 4.3
    with pytest.raises(
        SpearError, match="the autoencoder stabilityai/sd-vae-ft-mse is neither a folder nor in the hub"
    ):
        load_lm2face(path)


def test_paper_preset_without_perceptual_weights(
    clips: Path, kl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SpearError) as caught:
        train_lm2face(clips, tmp_path, preset="paper", vae=str(kl_folder))
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoints' / 'vgg19-dcbb9e9d.pth'} is absent; "
        "give torchvision's vgg19-dcbb9e9d.pth or mobilenet_v2-b0353104.pth with --perceptual"
    )


def test_seeds(clips: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_lm2face(clips, tmp_path / name, frames_per_clip=1, epochs=1, seed=seed)
        weights.append(load_checkpoint(tmp_path / name / "lm2face.safetensors", "lm2face")[0])
    key = "spade_net.align.inward.weight"
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0][key], weights[2][key])


def test_other_settings_and_restart(clips: Path, tmp_path: Path) -> None:
    train_lm2face(clips, tmp_path, frames_per_clip=1, epochs=1)
    with pytest.raises(SpearError) as caught:
        train_lm2face(clips, tmp_path, frames_per_clip=2, epochs=1)
    assert str(caught.value) == (
        f"{tmp_path / 'lm2face.state'} was trained with other settings (frames_per_clip); "
        "use --restart to begin anew, or another --models"
    )
    train_lm2face(clips, tmp_path, frames_per_clip=2, epochs=1, restart=True)
    assert read_about(tmp_path / "lm2face.state" / "state.safetensors")["settings"]["frames_per_clip"] == 2


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "lm2face.safetensors"
    with pytest.raises(SpearError) as caught:
        load_lm2face(path)
    assert str(caught.value) == (
        f"no lm2face.safetensors in {tmp_path}; run `spear train-lm2face` first, or give another folder with --models"
    )
    save_checkpoint(path, "a2lm", {}, {"x": torch.zeros(1)})
    with pytest.raises(SpearError) as caught:
        load_lm2face(path)
    assert str(caught.value) == (f"{path} holds a checkpoint of kind 'a2lm', 'lm2face' is needed here; give that one")
    save_checkpoint(path, "lm2face", {"vae": "light 0123", "latent": 32, "light": True}, {"x": torch.zeros(1)})
    with pytest.raises(SpearError) as caught:
        load_lm2face(path)
    assert str(caught.value) == (
        f"{path} was trained in the latents of light 0123, here is {load_autoencoder().identity()}; "
        "train it again, or take the spear version or --vae that it was trained with"
    )


def test_unknown_preset(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(SpearError, match=r"^--preset large is not one of small, paper$"):
        train_lm2face(clips, tmp_path, preset="large")
