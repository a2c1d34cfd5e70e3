"""`train-lm2face`: learns, writes what render reads and sheets to look at, goes on where it was stopped."""

from __future__ import annotations

import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command_line import files
from made_up import make_clip, track
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from spear import training_faces
from spear.checkpoint import load_checkpoint, read_about, read_tensors, save_checkpoint
from spear.clip import Clip
from spear.errors import SpearError
from spear.nets.autoencoder import Autoencoder, load_autoencoder
from spear.nets.lm2face import Lm2FaceConfig
from spear.painter import load_lm2face
from spear.pretrained.perceptual import _mobilenet_v2
from spear.pretrained.vae import KLAutoencoder
from spear.stages import train_lm2face as stage
from spear.stages.train_lm2face import PRESETS, train_lm2face
from spear.training import InterruptedTraining
from spear.training_faces import Weights

BATCH = 2
PAPER = PRESETS["paper"]
"""As it is, before the tests make it small."""
Options = dict[str, Any]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for i, split in enumerate(["train", "train", "val"]):
        make_clip(root / f"c{i}", frames=12, split=split, seed=i)
    return root


@pytest.fixture
def own(clips: Path, tmp_path: Path) -> Path:
    """A copy of the clips that a test may change."""
    return Path(shutil.copytree(clips, tmp_path / "clips"))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """What the paper preset needs: an AutoencoderKL and a perceptual net, tiny ones."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("paper")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")  # fmt: skip
    torch.save({f"features.{n}": v for n, v in _mobilenet_v2().state_dict().items()}, folder / "mobilenet.pth")
    return {"preset": "paper", "vae": str(folder / "vae"), "perceptual": folder / "mobilenet.pth"}


@pytest.fixture(params=["small", "paper"])
def preset(request: pytest.FixtureRequest, paper: Options) -> Options:
    """The options of each of the two."""
    return paper if request.param == "paper" else {"preset": "small"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both presets in sizes of seconds: narrow nets, two references from a bank of four, batches of two."""
    monkeypatch.setattr(Lm2FaceConfig.__init__, "__defaults__", (8, 1, 2, 4, True))  # width, blocks, references, bank
    monkeypatch.setattr(Lm2FaceConfig, "references", 2)
    of_paper = Lm2FaceConfig.paper
    monkeypatch.setattr(stage.Lm2FaceConfig, "paper", lambda vae: replace(of_paper(vae), width=8, blocks=2))
    for name, (schedule, weights) in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, (replace(schedule, batch_size=BATCH), weights))


class Given:
    """What a training was made of, and the frozen weights as they were before it."""

    def __init__(self, task: Any, net: Any, perceptual: nn.Module) -> None:
        self.task, self.net = task, net
        self.frozen: list[nn.Module] = [net.vae, perceptual]
        self.before = [{name: value.clone() for name, value in module.state_dict().items()} for module in self.frozen]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """One for each training."""
    kept: list[Given] = []
    face_task = stage.face_task

    def keep(accelerator: Any, net: Any, perceptual: nn.Module, *rest: Any) -> Any:
        task = face_task(accelerator, net, perceptual, *rest)
        kept.append(Given(task, net, perceptual))
        return task

    monkeypatch.setattr(stage, "face_task", keep)
    return kept


def _train(clips: Path, models: Path, **options: Any) -> list[list[str]]:
    """One step an epoch, one epoch if nothing else is said; the names of the losses of every step."""
    shown: list[str] = []
    options = {"frames_per_clip": 1, "epochs": 1} | options
    train_lm2face(clips, models, progress=lambda done, total, what: shown.append(what), **options)
    lines = [line for line in shown if not line.startswith(("encoding ", "listing "))]
    return [[word for word in line.split() if word.isalpha()] for line in lines]


def _weights(models: Path) -> dict[str, Tensor]:
    return load_checkpoint(models / "lm2face.safetensors", "lm2face")[0]


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
        "vae": vae.identity(), "latent": vae.latent_channels, "width": 8, "blocks": 1, "references": 2, "bank": 4,
        "light": True,
    }  # fmt: skip
    assert about["training"]["figures"] == figures
    weights = _weights(tmp_path / "long")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert {name.split(".")[0] for name in weights} == {"spade_net", "refine"}  # neither autoencoder nor critic
    net = load_lm2face(tmp_path / "long" / "lm2face.safetensors")
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_sheets_to_look_at(clips: Path, tmp_path: Path, preset: Options) -> None:
    """In a folder and in TensorBoard: one row for a sample, seven pictures at half size."""
    _train(clips, tmp_path, **preset)
    sheets = list((tmp_path / "lm2face.samples").iterdir())
    assert [path.name for path in sheets] == ["step_000001.png"]
    picture = cv2.imread(str(sheets[0]))
    # reference, masked target, sketch, warped, generated, blended, truth
    sheet = picture.reshape(128, 7, 128, 3).swapaxes(0, 1).astype(int)
    truth, masked, blended = sheet[6], sheet[1], sheet[5]
    assert np.array_equal(masked[:64], truth[:64])
    assert not masked[64:].any()
    assert np.array_equal(blended[:56], truth[:56])
    assert 0 < np.abs(blended - truth).mean() < 20
    shown = EventAccumulator(str(tmp_path / "tensorboard" / "lm2face")).Reload().Images("samples")
    assert [row.step for row in shown] == [1]
    encoded = np.frombuffer(shown[0].encoded_image_string, np.uint8)
    assert np.array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR), picture)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 3 of 4, when the critic (from .3 of the run on) has taken one step."""
    _train(clips, tmp_path / "unbroken", epochs=4)
    critic_loss = training_faces.critic_loss

    def stop(*args: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGTERM)
        return critic_loss(*args)

    monkeypatch.setattr(training_faces, "critic_loss", stop)
    with pytest.raises(InterruptedTraining, match="stopped after step 3"):
        _train(clips, tmp_path / "stopped", epochs=4)
    monkeypatch.setattr(training_faces, "critic_loss", critic_loss)
    _train(clips, tmp_path / "stopped", epochs=4)
    one, two = (read_tensors(tmp_path / n / "lm2face.state" / "state.safetensors") for n in ("unbroken", "stopped"))
    assert one[1]["step"] == two[1]["step"] == 4
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(value, two[0][name]) for name, value in one[0].items())
    assert any(name.startswith("optimiser.critic.") for name in one[0])


def test_losses_of_equation_8(clips: Path, tmp_path: Path, paper: Options) -> None:
    """The paper's weights, with the critic from the first step on; in the small preset it comes in at .3 of the run,
    and the references' warped pixels have a loss of their own."""
    assert PAPER[1] == Weights(reconstruction=1.0, perceptual=4.0, gan=1.0, mouth=2.5)
    assert (PAPER[1].warped, PAPER[1].critic_from, PAPER[1].critic_window) == (0.0, 0.0, None)
    assert _train(clips, tmp_path / "small", epochs=2) == [
        ["reconstruction", "perceptual", "mouth", "warped"],
        ["reconstruction", "perceptual", "mouth", "warped", "gan", "critic"],
    ]
    assert _train(clips, tmp_path / "paper", **paper) == [["reconstruction", "perceptual", "mouth", "gan", "critic"]]


def test_schedule_of_the_paper(clips: Path, tmp_path: Path, paper: Options, given: list[Given]) -> None:
    """Section 4.3: Adam, 1e-4, 300 epochs, batches of 32."""
    schedule = PAPER[0]
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (300, 32, 1e-4)
    _train(clips, tmp_path, **paper)
    for optimiser in given[0].task.optimisers.values():
        assert isinstance(optimiser.optimizer, torch.optim.Adam)
        assert optimiser.param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize("options", [{}, {"cache_latents": True, "decoded_frames": 1, "save_memory": True}], ids=str)
def test_autoencoder_and_perceptual_net_stay_as_they_are(
    own: Path, tmp_path: Path, preset: Options, options: Options, given: list[Given]
) -> None:
    _train(own, tmp_path, epochs=2, **preset, **options)
    assert len(given) == 1
    for module, before in zip(given[0].frozen, given[0].before, strict=True):
        assert len(before) > 10
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
        assert not any(layer.training for layer in module.modules() if not list(layer.children()))
    assert all(p.requires_grad and p.grad is not None for p in given[0].net.parameters())


def test_paper_preset(clips: Path, tmp_path: Path, paper: Options) -> None:
    """Through diffusers' AutoencoderKL and a perceptual net from a file, tiny ones; rendering needs the same VAE."""
    _train(clips, tmp_path, epochs=2, **paper)
    path = tmp_path / "lm2face.safetensors"
    net = load_lm2face(path, paper["vae"])
    assert (net.config.latent, net.config.references, net.config.bank, net.config.light) == (4, 1, 1, False)
    assert net.config.vae == net.vae.identity()
    assert {name.split(".")[0] for name in _weights(tmp_path)} == {"spade_net"}
    with pytest.raises(
        SpearError, match="the autoencoder stabilityai/sd-vae-ft-mse is neither a folder nor in the hub"
    ):
        load_lm2face(path)


def test_paper_preset_without_perceptual_weights(
    clips: Path, paper: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SpearError) as caught:
        _train(clips, tmp_path, preset="paper", vae=paper["vae"])
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoints' / 'vgg19-dcbb9e9d.pth'} is absent; "
        "give torchvision's vgg19-dcbb9e9d.pth or mobilenet_v2-b0353104.pth with --perceptual"
    )


def test_seeds(clips: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _train(clips, tmp_path / name, seed=seed)
        weights.append(_weights(tmp_path / name))
    key = "spade_net.align.inward.weight"
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0][key], weights[2][key])


def test_other_settings_and_restart(clips: Path, tmp_path: Path) -> None:
    _train(clips, tmp_path)
    for options, names in (
        ({"frames_per_clip": 2}, "frames_per_clip"),
        ({"refs": 3, "decoded_frames": 1}, "decoded_frames, refs"),
        ({"init": tmp_path / "lm2face.safetensors"}, "init, learning_rate"),
    ):
        with pytest.raises(SpearError) as caught:
            _train(clips, tmp_path, **options)
        assert str(caught.value) == (
            f"{tmp_path / 'lm2face.state'} was trained with other settings ({names}); "
            "use --restart to begin anew, or another --models"
        )
    _train(clips, tmp_path, frames_per_clip=2, restart=True)
    about = read_about(tmp_path / "lm2face.state" / "state.safetensors")
    assert (about["settings"]["frames_per_clip"], about["step"]) == (2, 2)
    _train(clips, tmp_path, frames_per_clip=2, epochs=2, save_memory=True)  # changes nothing, so it goes on
    assert read_about(tmp_path / "lm2face.state" / "state.safetensors")["step"] == 4


@pytest.mark.parametrize(("refs", "small"), [(1, (1, 1)), (3, (2, 3))])
def test_refs_are_kept_in_the_model(
    refs: int, small: tuple[int, int], clips: Path, tmp_path: Path, preset: Options
) -> None:
    """(references, bank): of the small preset's bank the two nearest serve a frame, of the paper's net all do."""
    _train(clips, tmp_path, refs=refs, **preset)
    config = read_about(tmp_path / "lm2face.safetensors")["config"]
    assert (config["references"], config["bank"]) == (small if config["light"] else (refs, refs))


# --- going on from a checkpoint


def test_a_training_goes_on_from_a_checkpoint(clips: Path, tmp_path: Path, preset: Options) -> None:
    """With .3 of the preset's learning rate, unless another is given."""
    _train(clips, tmp_path / "base", seed=7, **preset)
    base = _weights(tmp_path / "base")
    init = tmp_path / "base" / "lm2face.safetensors"

    def distance(name: str, **options: Any) -> float:
        _train(clips, tmp_path / name, **preset, **options)
        weights = _weights(tmp_path / name)
        assert weights.keys() == base.keys()
        return sum(float((value.float() - base[key].float()).square().sum()) for key, value in weights.items()) ** 0.5

    assert 0 < distance("on", init=init) < 0.02 * distance("fresh")
    rates = {}
    for name in ("base", "on"):
        settings = read_about(tmp_path / name / "lm2face.state" / "state.safetensors")["settings"]
        rates[name] = settings["learning_rate"]
    assert rates["on"] == pytest.approx(0.3 * rates["base"])
    distance("own", init=init, learning_rate=2e-4)
    assert read_about(tmp_path / "own/lm2face.state/state.safetensors")["settings"]["learning_rate"] == 2e-4


def test_a_checkpoint_to_go_on_from_may_get_other_refs(clips: Path, tmp_path: Path, preset: Options) -> None:
    """The weights know nothing of their number."""
    _train(clips, tmp_path / "base", refs=1, **preset)
    for refs in (None, 3):
        models = tmp_path / f"refs {refs}"
        _train(clips, models, init=tmp_path / "base" / "lm2face.safetensors", refs=refs, **preset)
        config = read_about(models / "lm2face.safetensors")["config"]
        wanted = (1, 1) if refs is None else (2, 3) if config["light"] else (3, 3)
        assert (config["references"], config["bank"]) == wanted


def test_a_checkpoint_of_the_other_preset_is_refused(clips: Path, tmp_path: Path, paper: Options) -> None:
    for name, options in (("small", {}), ("paper", paper)):
        _train(clips, tmp_path / name, **options)
    for other, preset, options in (("small", "paper", paper), ("paper", "small", {"vae": paper["vae"]})):
        path = tmp_path / other / "lm2face.safetensors"
        with pytest.raises(SpearError) as caught:
            _train(clips, tmp_path / "new", init=path, **options)
        assert str(caught.value) == f"--init {path} is not of the {preset} preset; give --preset or another checkpoint"
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_to_go_on_from_that_is_absent(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        _train(clips, tmp_path, init=tmp_path / "none.safetensors")
    assert str(caught.value) == (
        f"no none.safetensors in {tmp_path}; run `spear train-lm2face` first, or give another folder with --models"
    )


# --- latents that are kept, frames that are not decoded, activations that are not kept


def test_latents_are_kept_beside_the_clips(own: Path, tmp_path: Path, preset: Options) -> None:
    """Of train and val; a second run reads them. Equation 1's inputs; the small preset's sketches need no encoder."""
    make_clip(own / "c3", frames=2, split="test")
    plain = _train(own, tmp_path / "plain", **preset)
    assert list(own.rglob("latents.safetensors")) == []
    assert _train(own, tmp_path / "a", cache_latents=True, **preset) == plain  # the same losses
    assert {path.parent.name for path in own.rglob("latents.safetensors")} == {"c0", "c1", "c2"}
    latents = read_tensors(own / "c0" / "latents.safetensors")[0]
    assert {value.dtype for value in latents.values()} == {torch.float16}
    assert {name: tuple(value.shape) for name, value in latents.items()} == (
        {"picture": (12, 32, 20, 32), "masked": (12, 32, 4, 32)}  # latent rows from 12 on, to the mask at row 16
        if preset["preset"] == "small"
        else {name: (12, 4, 32, 32) for name in ("picture", "masked", "sketch")}
    )
    before = files(own / "c0")
    _train(own, tmp_path / "b", cache_latents=True, **preset)
    assert files(own / "c0") == before
    name = "lm2face.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_latents_of_another_clip_or_autoencoder_are_made_again(own: Path, tmp_path: Path, paper: Options) -> None:
    _train(own, tmp_path / "a", cache_latents=True)
    before = files(own)
    clip = Clip(own / "c0")
    clip.write_info(replace(clip.info, settings={"crop": "another"}))
    clip.write_landmarks(track(12), np.ones(12, np.float32), {"detector": "made up"})
    _train(own, tmp_path / "b", cache_latents=True)
    after = files(own)
    changed = {name for name in after if after[name] != before.get(name) and name.endswith("latents.safetensors")}
    assert changed == {"c0/latents.safetensors"}
    _train(own, tmp_path / "c", cache_latents=True, **paper)
    assert all(files(own)[f"c{i}/latents.safetensors"] != after[f"c{i}/latents.safetensors"] for i in range(3))


def test_latents_of_sketches_follow_the_landmarks(own: Path, tmp_path: Path, paper: Options) -> None:
    """`spear landmarks` may be run again with another detector; what was drawn from the old points is made anew."""
    _train(own, tmp_path / "a", cache_latents=True, **paper)
    clip = Clip(own / "c0")
    sketch = read_tensors(clip.latents_path)[0]["sketch"]
    for name in ("c0", "c1", "c2"):
        moved = track(12, seed=9) + np.float32(9)
        Clip(own / name).write_landmarks(moved, np.ones(12, np.float32), {"detector": "another"})
    _train(own, tmp_path / "b", cache_latents=True, **paper)
    assert not torch.equal(read_tensors(clip.latents_path)[0]["sketch"], sketch)


def test_only_as_many_frames_as_asked_for_are_decoded(
    clips: Path, tmp_path: Path, preset: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a batch of two; the other is compared in latent space."""
    decoded: list[int] = []
    kind = Autoencoder if preset["preset"] == "small" else KLAutoencoder
    decode = kind.decode

    def count(self: Any, latents: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # not for validation
            decoded.append(len(latents))
        return decode(self, latents)

    monkeypatch.setattr(kind, "decode", count)
    (usual,) = _train(clips, tmp_path / "all", **preset)
    assert decoded == [2]
    (losses,) = _train(clips, tmp_path / "one", decoded_frames=1, **preset)
    assert decoded == [2, 1]
    assert "latent" not in usual
    assert sorted(losses) == sorted([*usual, "latent"])
    _train(clips, tmp_path / "more", decoded_frames=9, **preset)
    assert decoded == [2, 1, 2]


def test_saving_memory_changes_nothing(clips: Path, tmp_path: Path, preset: Options) -> None:
    for name, saves in (("plain", False), ("saves", True)):
        _train(clips, tmp_path / name, epochs=2, save_memory=saves, **preset)
    plain, saves = (_weights(tmp_path / name) for name in ("plain", "saves"))
    assert plain.keys() == saves.keys()
    for name, value in plain.items():
        assert torch.allclose(value.float(), saves[name].float(), atol=1e-5, rtol=0), name


# --- checkpoints that do not fit


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


@pytest.mark.parametrize("change", ["a net without refine", "another width", "an unknown setting", "no autoencoder"])
def test_a_checkpoint_of_another_version_of_spear(change: str, tmp_path: Path) -> None:
    vae = load_autoencoder()
    config = Lm2FaceConfig(vae.identity(), vae.latent_channels)
    net = stage.build_lm2face(config, vae)
    about, weights = asdict(config), net.state_dict()
    if change == "a net without refine":  # as they were before references had a bank
        about.pop("bank")
        weights = {name: value for name, value in weights.items() if not name.startswith("refine.")}
    elif change == "another width":
        about["width"] = 16
    elif change == "an unknown setting":
        about["teeth"] = 32
    else:
        about.pop("vae")
    path = tmp_path / "lm2face.safetensors"
    save_checkpoint(path, "lm2face", about, weights)
    with pytest.raises(SpearError) as caught:
        load_lm2face(path)
    assert str(caught.value) == (
        f"{path} is of another version of spear, its net is built in another way; run `spear train-lm2face --restart`"
    )


def test_unknown_preset(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(SpearError, match=r"^--preset large is not one of small, paper$"):
        train_lm2face(clips, tmp_path, preset="large")
