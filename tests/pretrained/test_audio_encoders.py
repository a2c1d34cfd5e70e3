"""Paper 3.1.1: five encoders and the control without audio, one feature per video frame."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from spear.errors import SpearError
from spear.pretrained.audio_encoders import ENCODERS, _chosen_layers, _cross_fade, load_encoder

SPEECH_MODELS = ("hubert", "wav2vec2-conformer", "unispeech")
LENGTHS = [(0, 1), (10, 1), (400, 1), (16_000, 25), (round(3.013 * 16_000), 75), (61 * 16_000, 1525)]
"""(samples, video frames): 3.013 s is 75.3 frames."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(seed))


def tiny_model(name: str) -> Any:
    """A random model of the real class, 3 layers of width 16, otherwise built like the large ones."""
    common: dict[str, Any] = dict(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embedding_groups=4, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True,
    )  # fmt: skip
    torch.manual_seed(1)
    if name == "hubert":
        return transformers.HubertModel(transformers.HubertConfig(**common)).eval()
    if name == "unispeech":
        return transformers.UniSpeechModel(transformers.UniSpeechConfig(**common)).eval()
    return transformers.Wav2Vec2ConformerModel(
        transformers.Wav2Vec2ConformerConfig(
            **common, position_embeddings_type="relative", conv_depthwise_kernel_size=3
        )
    ).eval()


def tiny_whisper(model_class: Any) -> Any:
    torch.manual_seed(2)
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=50, max_target_positions=8,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    return model_class(config).eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with tiny weights, by encoder name."""
    folders = {name: tmp_path_factory.mktemp(name) for name in (*SPEECH_MODELS, "whisper")}
    for name in SPEECH_MODELS:
        tiny_model(name).save_pretrained(folders[name])
    tiny_whisper(WhisperEncoder).save_pretrained(folders["whisper"])
    return folders


@pytest.fixture(scope="module")
def without_attention(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with attention switched off: what is left looks at a bounded stretch of time."""
    folders = {name: tmp_path_factory.mktemp(f"local-{name}") for name in SPEECH_MODELS}
    for name, folder in folders.items():
        model = tiny_model(name)
        for key, weight in model.named_parameters():
            if "attention.out_proj" in key or "self_attn.linear_out" in key:
                weight.data.zero_()
        model.save_pretrained(folder)
    return folders


@pytest.fixture
def copied(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny HuBERT to damage."""
    return Path(shutil.copytree(tiny["hubert"], tmp_path / "copy"))


# --- what all encoders promise


def test_names_are_those_of_the_papers_table_3_whisper_and_the_control() -> None:
    assert ENCODERS == ("mfcc", "hubert", "wav2vec2-conformer", "unispeech", "whisper", "none")


@pytest.mark.parametrize("name", ENCODERS)
def test_no_bit_depends_on_the_number_of_cores(name: str, tiny: dict[str, Path]) -> None:
    """Thirty seconds are four batches of whisper's windows, and two windows of the large encoders."""
    encoder, samples, found = load_encoder(name, tiny.get(name)), noise(30), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(encoder(samples))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", ENCODERS)
def test_one_feature_per_video_frame_for_any_length(name: str, tiny: dict[str, Path]) -> None:
    encoder = load_encoder(name, tiny.get(name))
    for samples, frames in LENGTHS:
        features = encoder(noise(samples / 16_000))
        assert features.shape == (frames, *encoder.shape)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        assert features.isfinite().all()


@pytest.mark.parametrize("name", ENCODERS)
def test_digital_silence_gives_finite_features(name: str, tiny: dict[str, Path]) -> None:
    assert load_encoder(name, tiny.get(name))(torch.zeros(16_000)).isfinite().all()


@pytest.mark.parametrize(("seconds", "frame"), [(2, 20), (61, 24 * 25), (61, 1510)], ids=str)
@pytest.mark.parametrize("name", ENCODERS[:-1])
def test_a_sound_shows_in_the_features_of_its_own_video_frame(
    name: str, seconds: int, frame: int, tiny: dict[str, Path], without_attention: dict[str, Path]
) -> None:
    """Early, where windows of long audio meet, and late, where an error that grows with the length would show."""
    encoder = load_encoder(name, (tiny | without_attention).get(name))
    samples = noise(seconds)
    other = samples.clone()
    other[640 * frame : 640 * (frame + 1)] = noise(0.04, seed=1)  # as loud: normalisation changes nothing elsewhere
    change = (encoder(other) - encoder(samples))[:, :2].square().sum(dim=(1, 2))
    assert abs(int(change.argmax()) - frame) <= 1  # random convolutions lean to one side


def test_none_is_the_control_that_hears_nothing() -> None:
    encoder = load_encoder("none")
    assert (encoder.name, encoder.shape, encoder.settings) == ("none", (1, 1), {"encoder": "none", "version": 1})
    assert torch.equal(encoder(noise(3.013)), torch.zeros(75, 1, 1))


def test_settings_follow_the_content_of_the_weights_not_their_place(tiny: dict[str, Path], copied: Path) -> None:
    settings = load_encoder("hubert", tiny["hubert"]).settings
    assert load_encoder("hubert", copied).settings == settings == json.loads(json.dumps(settings))
    weights = load_file(copied / "model.safetensors")
    weights["encoder.layer_norm.bias"][0] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder("hubert", copied).settings != settings


def test_layers_are_a_quarter_half_and_all() -> None:
    assert _chosen_layers(24) == (6, 12, 24)
    assert _chosen_layers(4) == (1, 2, 4)
    assert _chosen_layers(1) == (1, 1, 1)


def test_cross_fade_by_hand() -> None:
    pieces = [(0, torch.zeros(6, 1, 1)), (2, torch.ones(6, 1, 1))]
    faded = _cross_fade(pieces, torch.zeros(8, 1, 1), margin=1, fade=2).flatten()
    # frames 2..5 overlap: piece 2 weighs 0, 1/4, 3/4, 1 there, piece 1 the rest
    assert faded.tolist() == [0, 0, 0, 0.25, 0.75, 1, 1, 1]


# --- hubert, wav2vec2-conformer, unispeech


def by_the_book(model: Any, samples: torch.Tensor) -> torch.Tensor:
    """Features of samples, (F * 640,), in one go, straight from the class: (F, 3, W)."""
    samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        output = model(torch.nn.functional.pad(samples, (40, 40))[None], output_hidden_states=True)
    states = [output.hidden_states[1], output.hidden_states[2], output.last_hidden_state]  # 3 layers: 3/4, 3/2, 3
    assert states[0].shape[1] == len(samples) // 320
    return torch.stack([(state[0, 0::2] + state[0, 1::2]) / 2 for state in states], dim=1)


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_up_to_24_s_are_what_the_class_gives_in_one_go(name: str, tiny: dict[str, Path]) -> None:
    for samples in (noise(1), noise(24)):
        torch.testing.assert_close(
            load_encoder(name, tiny[name])(samples), by_the_book(tiny_model(name), samples), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("frames", [601, 1101, 1525])
@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_long_audio_in_windows_equals_one_go_but_for_attention(
    name: str, frames: int, without_attention: dict[str, Path]
) -> None:
    """A frame more than one window (24 s) and than two (44 s), where the last window lies over the one before; 61 s."""
    samples = noise(frames / 25) * torch.linspace(0.1, 1, frames * 640)  # per-window level normalisation would show
    model = type(tiny_model(name)).from_pretrained(without_attention[name]).eval()
    encoder = load_encoder(name, without_attention[name])
    torch.testing.assert_close(encoder(samples), by_the_book(model, samples), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_the_last_layer_is_taken_after_the_final_layer_norm(name: str, tiny: dict[str, Path]) -> None:
    model = tiny_model(name)
    samples = noise(1)
    normalised = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    before: list[torch.Tensor] = []
    model.encoder.layers[-1].register_forward_hook(lambda module, given, result: before.append(result))
    with torch.no_grad():
        model(torch.nn.functional.pad(normalised, (40, 40))[None])
        hidden = before[0][0] if isinstance(before[0], tuple) else before[0]
        expected = model.encoder.layer_norm(hidden)[0].unflatten(0, (25, 2)).mean(1)
    torch.testing.assert_close(load_encoder(name, tiny[name])(samples)[:, 2], expected, atol=1e-4, rtol=0)


def test_level_is_normalised_as_the_models_feature_extractor_says(copied: Path) -> None:
    samples = noise(1)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    normalised = torch.tensor(extractor(samples.numpy(), sampling_rate=16_000).input_values[0])
    by_default = load_encoder("hubert", copied)
    (copied / "preprocessor_config.json").write_text('{"do_normalize": false}')
    raw = load_encoder("hubert", copied)
    torch.testing.assert_close(by_default(samples), raw(normalised), atol=1e-4, rtol=0)
    assert by_default.settings != raw.settings


def test_weight_norm_under_its_old_names_loads_as_in_the_files_on_the_hub(copied: Path, tiny: dict[str, Path]) -> None:
    weights = load_file(copied / "model.safetensors")
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        place = "encoder.pos_conv_embed.conv."
        weights[place + old] = weights.pop(f"{place}parametrizations.weight.{new}")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    samples = noise(1)
    assert torch.equal(load_encoder("hubert", copied)(samples), load_encoder("hubert", tiny["hubert"])(samples))


# --- whisper


def test_packaged_whisper_works_without_anything_else() -> None:
    encoder = load_encoder("whisper")
    features = encoder(noise(3))
    assert features.shape == (75, 3, 384)
    assert features.isfinite().all()
    assert encoder.settings["layers"] == [1, 2, 4]
    licence = Path(__file__).parents[2] / "spear" / "weights" / "whisper-tiny.en" / "LICENSE.txt"
    assert "Copyright (c) 2022 OpenAI" in licence.read_text()


def test_whisper_spectrum_is_that_of_its_feature_extractor() -> None:
    samples = noise(3) * torch.linspace(0, 1, 48_000) ** 4
    extractor = transformers.WhisperFeatureExtractor(chunk_length=3)

    def official(level: float) -> torch.Tensor:
        return torch.tensor(extractor((samples * level).numpy(), sampling_rate=16_000).input_features[0])

    # bring the loudest moment to 10^0, where Whisper's floor, 80 dB below it, is the fixed one
    level = 10 ** (-(official(1).max().item() * 4 - 4) / 2)
    ours = load_encoder("whisper")._spectrum((samples * level)[None])[0]  # type: ignore[attr-defined]
    assert ours.min() == -1
    torch.testing.assert_close(ours, official(level), atol=1e-3, rtol=0)


def test_whisper_windows_are_what_the_class_gives_at_the_first_positions() -> None:
    """Where one window alone has weight: 37 frames in, the middle of the window that starts 1.5 s before it."""
    encoder = load_encoder("whisper")
    model = WhisperEncoder.from_pretrained(Path(sys.modules["spear"].__file__ or "").parent / "weights/whisper-tiny.en")
    model = model.float().eval()
    samples = noise(3)
    spectrum = encoder._spectrum(samples[None])  # type: ignore[attr-defined]
    with torch.no_grad():
        states = model.conv1(spectrum)
        states = model.conv2(torch.nn.functional.gelu(states))
        states = torch.nn.functional.gelu(states).mT + model.embed_positions.weight[:150]
        layers = []
        for layer in model.layers:
            states = layer(states, None)
            layers.append(states)
        expected = torch.stack([layers[0], layers[1], model.layer_norm(layers[3])], dim=2)[0, 74:76].mean(0)
    torch.testing.assert_close(encoder(samples)[37], expected, atol=1e-3, rtol=0)


def test_whisper_of_a_piece_equals_the_same_piece_of_the_whole() -> None:
    encoder, samples = load_encoder("whisper"), noise(16)
    piece = encoder(samples[4 * 16_000 : 11 * 16_000])
    torch.testing.assert_close(encoder(samples)[4 * 25 + 62 : 11 * 25 - 62], piece[62:-62], atol=1e-3, rtol=0)


@pytest.mark.parametrize("model_class", [transformers.WhisperModel, transformers.WhisperForConditionalGeneration])
def test_whisper_reads_files_of_the_whole_model_too(model_class: Any, tmp_path: Path, tiny: dict[str, Path]) -> None:
    model = tiny_whisper(model_class)
    model.save_pretrained(tmp_path / "whole")
    model.get_encoder().save_pretrained(tmp_path / "encoder")
    samples = noise(1)
    whole, encoder = (load_encoder("whisper", tmp_path / kind)(samples) for kind in ("whole", "encoder"))
    assert torch.equal(whole, encoder)


# --- weights that are absent, damaged or of another kind


def refusal(name: str, weights: str | Path | None) -> str:
    with pytest.raises(SpearError) as caught:
        load_encoder(name, weights)
    return str(caught.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_unknown_encoder() -> None:
    assert refusal("wavlm", None) == (
        "no audio encoder is called wavlm; choose one of mfcc, hubert, wav2vec2-conformer, unispeech, whisper, none"
    )


@pytest.mark.parametrize("name", ["mfcc", "none"])
def test_mfcc_and_the_control_take_no_weights(name: str) -> None:
    assert refusal(name, "x") == (
        f"{name} is computed without weights; leave --weights out, or choose another --encoder"
    )


def test_weights_that_are_not_there(cache: Path) -> None:
    assert refusal("hubert", None) == (
        "the weights facebook/hubert-large-ll60k of the encoder hubert are not on this computer; run `hf download "
        "facebook/hubert-large-ll60k`, or point to a folder that holds them with --weights FOLDER"
    )
    assert refusal("hubert", "/no/such") == (
        "/no/such is not a folder; give one that holds config.json and model.safetensors with --weights FOLDER"
    )


def test_a_hub_id_is_found_in_the_local_cache(cache: Path, tiny: dict[str, Path]) -> None:
    repository = cache / "models--someone--tiny-hubert"
    shutil.copytree(tiny["hubert"], repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    by_id, by_folder = load_encoder("hubert", "someone/tiny-hubert"), load_encoder("hubert", tiny["hubert"])
    assert by_id.settings == by_folder.settings


def test_a_folder_of_another_model_or_of_none(tiny: dict[str, Path], tmp_path: Path) -> None:
    assert refusal("unispeech", tiny["hubert"]) == (
        f"{tiny['hubert']} holds a hubert model, unispeech is needed; give another folder with --weights FOLDER"
    )
    assert refusal("hubert", tmp_path) == (
        f"{tmp_path} holds no model, hubert is needed; give another folder with --weights FOLDER"
    )


def test_pickles_are_not_read_and_the_line_says_how_to_convert(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert refusal("hubert", copied) == (
        f"no model.safetensors in {copied}; download it again, or give another folder with --weights FOLDER"
    )
    (copied / "pytorch_model.bin").touch()
    convert = f"from transformers import AutoModel as M; M.from_pretrained('{copied}').save_pretrained('hubert')"
    assert refusal("hubert", copied) == (
        f"{copied} holds pytorch_model.bin but no model.safetensors, and spear reads no pickles; "
        f'run `python -c "{convert}"` once and give --weights hubert'
    )


def damage(change: Callable[[dict[str, torch.Tensor]], Any], folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_weight_is_never_left_random(copied: Path) -> None:
    damage(lambda weights: weights.pop("encoder.layers.1.attention.k_proj.bias"), copied)
    assert refusal("hubert", copied) == (
        f"the weights in {copied} lack encoder.layers.1.attention.k_proj.bias (1 in all); "
        "give another folder with --weights FOLDER"
    )


def test_weights_of_another_size_or_cut_short(copied: Path) -> None:
    damage(lambda weights: weights.update({"encoder.layer_norm.bias": torch.zeros(5)}), copied)
    assert refusal("hubert", copied).startswith(f"the weights in {copied} cannot be loaded (")
    (copied / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes()[:1000])
    message = refusal("hubert", copied)
    assert message.startswith(f"the weights in {copied} cannot be loaded (")
    assert message.endswith("); download them again, or give another folder with --weights FOLDER")
    assert "\n" not in message


def test_loading_is_silent(tiny: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny_whisper(transformers.WhisperModel).save_pretrained(tmp_path)  # its decoder would be reported as unexpected
    capfd.readouterr()
    load_encoder("whisper", tmp_path)
    load_encoder("hubert", tiny["hubert"])
    assert capfd.readouterr() == ("", "")
