"""Whisper's encoder without transformers: the same numbers, and nothing of it imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from spear.errors import SpearError
from spear.pretrained.speech_models import PACKAGED_WHISPER
from spear.pretrained.whisper_encoder import load_whisper, mel_filters


@pytest.mark.parametrize("bands", [80, 128])
def test_filters_are_those_of_the_feature_extractor(bands: int) -> None:
    expected = transformers.WhisperFeatureExtractor(feature_size=bands).mel_filters
    torch.testing.assert_close(mel_filters(bands), torch.from_numpy(expected).float(), atol=1e-8, rtol=0)


def test_states_are_those_of_the_class_in_transformers() -> None:
    """At all of its 1,500 positions, the only number that the class takes."""
    theirs = WhisperEncoder.from_pretrained(PACKAGED_WHISPER, dtype=torch.float32).eval()
    spectra = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(spectra, output_hidden_states=True)
        states = load_whisper(PACKAGED_WHISPER, 1500)(spectra)
    assert len(states) == 5
    for ours, other in zip(states[:4], expected.hidden_states[:4], strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states[4], expected.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    weights = load_file(PACKAGED_WHISPER / "model.safetensors")
    del weights["layers.2.fc1.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((PACKAGED_WHISPER / "config.json").read_bytes())
    with pytest.raises(SpearError, match=r"lack layers\.2\.fc1\.bias \(1 in all\); give another folder"):
        load_whisper(tmp_path, 150)


def test_a_render_does_not_wait_for_transformers() -> None:
    code = "import sys, spear.stages.render as r; r.load_encoder('whisper'); sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
