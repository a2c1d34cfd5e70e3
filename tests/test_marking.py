"""Which marks a render gets, and that they are put on: the sidecar's hashes, the comment, the frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spear import c2pa_sign, watermark
from spear.errors import SpearError
from spear.files import sha256_of
from spear.marking import PLAIN, Marking, choose_marking
from spear.provenance import COMMENT

FRAME = np.random.default_rng(0).integers(60, 190, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_c2pa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c2pa_sign, "is_installed", lambda: False)


def test_the_comment_and_the_frames() -> None:
    assert PLAIN.comment == COMMENT
    assert Marking(provenance=False).comment == ""
    assert PLAIN.mark(FRAME) is FRAME
    assert np.array_equal(Marking(watermark=True).mark(FRAME), watermark.embed(FRAME))


def test_the_record_tells_what_it_was_made_from(tmp_path: Path) -> None:
    for name in ("made.tmp", "a.wav", "face.mp4", "a2lm.safetensors"):
        (tmp_path / name).write_text(name)
    marking = choose_marking(tmp_path / "out.mp4", True, True, None, None, "spear render ...")
    record = marking.finish(
        tmp_path / "made.tmp", tmp_path / "out.mp4", tmp_path / "a.wav", tmp_path / "face.mp4",
        [tmp_path / "a2lm.safetensors"],
    )  # fmt: skip
    assert (record.video.name, record.video.sha256) == ("out.mp4", sha256_of(tmp_path / "made.tmp"))
    assert (record.audio.name, record.ref.name) == ("a.wav", "face.mp4")
    assert [(one.name, one.sha256) for one in record.weights] == [
        ("a2lm.safetensors", sha256_of(tmp_path / "a2lm.safetensors"))
    ]
    assert (record.provenance, record.signed, record.command) == (True, False, "spear render ...")
    assert record.watermark == watermark.as_text(watermark.payload())


def test_what_contradicts_itself_is_refused() -> None:
    for invisible, certificate in ((True, None), (False, Path("c.pem"))):
        with pytest.raises(SpearError, match="--no-provenance leaves out every mark"):
            choose_marking(Path("out.mp4"), False, invisible, certificate, None, "")
    assert choose_marking(Path("out.mp4"), False, False, None, None, "") == Marking(provenance=False)
