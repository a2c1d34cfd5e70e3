"""Borrowed nets: what is absent is named in one line, the rest goes on; what is there is loaded, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spear import judges
from spear.errors import SpearError
from spear.files import sha256_of
from spear.judges import WeightFiles, check_weights, load_judges
from spear.pretrained.inception import Inception
from spear.scores.compare import METRICS

EVERY = frozenset(METRICS)


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(Inception().state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


@pytest.fixture(autouse=True)
def _no_dlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise SpearError("not installed")

    monkeypatch.setattr(judges.identity, "find_identity_weights", absent)


def test_without_any_weights_the_rest_goes_on() -> None:
    found = check_weights(EVERY, WeightFiles())
    assert found.which == {"ld", "lvd", "psnr", "ssim", "lmd", "sync"}
    assert found.parts == frozenset()
    assert [line.split(": ")[:2] for line in found.absent] == [
        ["left out", part] for part in ("fid", "lpips", "csim", "m_lmd, f_lmd", "lse_d, lse_c")
    ]
    assert all("\n" not in line and "--detector" not in line for line in found.absent)
    assert load_judges(found.parts, WeightFiles()) == judges.Judges()


def test_a_score_that_is_asked_for_alone_and_cannot_be_is_an_error() -> None:
    with pytest.raises(SpearError, match="no Inception weights at"):
        check_weights(frozenset({"fid"}), WeightFiles())
    with pytest.raises(SpearError, match="not installed"):
        check_weights(frozenset({"fid", "csim"}), WeightFiles())
    assert check_weights(frozenset({"lmd"}), WeightFiles()).which == {"lmd"}  # Chen's needs no weights


def test_what_is_there_is_hashed_and_loaded(inception: Path) -> None:
    files = WeightFiles(inception=inception)
    found = check_weights(frozenset({"psnr", "fid", "csim"}), files)
    assert (found.which, found.parts) == ({"psnr", "fid"}, {"fid"})
    assert found.sha256 == {"fid": sha256_of(inception)}
    nets = load_judges(found.parts, files)
    assert (nets.lpips, nets.identity, nets.points_68, nets.syncnet) == (None, None, None, None)
    assert nets.embed is not None
    assert nets.embed(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 2048)
    assert load_judges(found.parts, files) is nets  # once in a process


def test_a_split_has_no_video_to_look_into() -> None:
    found = check_weights(frozenset({"lmd", "sync"}), WeightFiles(), videos=False)
    assert found.which == {"lmd", "sync"}
    assert found.absent == [
        "left out: m_lmd, f_lmd: they are for videos; give PRED and TRUTH",
        "left out: lse_d, lse_c: they are for videos; give PRED and TRUTH",
    ]
