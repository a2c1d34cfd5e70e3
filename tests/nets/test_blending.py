"""The blend covers the mouth and shows no edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up import face

from spear.nets.blending import blend_columns, blend_mask, composite


def test_composite_by_hand() -> None:
    # rows from 1 on: truth 2, generated 6, weights 0, 0.25, 1 -> 2, 3, 6
    target, mask = torch.full((1, 3, 4, 1), 2.0), torch.tensor([9.0, 0, 0.25, 1]).view(1, 1, 4, 1)
    result = composite(torch.full((1, 3, 3, 1), 6.0), target, mask, 1)
    assert result[0, 0, :, 0].tolist() == [2, 3, 6]


@pytest.mark.parametrize(
    "faces",
    [[face()], [face(0), face(40)], [face(at=(150.0, 130.0))], [face(40, at=(128.0, 150.0))], [face(size=230.0)]],
    ids=["one", "two", "aside", "jaw at the crop's edge", "close up"],
)
def test_blend_mask_has_no_edge(faces: list[np.ndarray]) -> None:
    mask = blend_mask(faces)
    assert mask.shape == (256, 256)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask.max() == 1
    beyond = np.pad(mask, 1)  # outside of the crop nothing is pasted: its edge must not show, either
    for axis in (0, 1):
        assert np.abs(np.diff(beyond, axis=axis)).max() < 0.09  # at most 23 of 255 grey levels from pixel to pixel


def test_blend_mask_covers_the_mouth_and_leaves_eyes_and_background() -> None:
    points = face(30)
    mask = blend_mask([points])
    lips = np.round(points[91:]).astype(int)  # after 74 points of the pose and 17 of the jaw
    assert (mask[lips[:, 1], lips[:, 0]] > 0.95).all()
    assert not mask[:112].any()
    assert not mask[:, :20].any()
    assert not mask[:, 236:].any()


def test_blend_mask_covers_the_old_jaw_as_well_as_the_new_one() -> None:
    closed, opened = face(0), face(0)
    opened[74:91, 1] += np.linspace(0, 1, 17) * np.linspace(1, 0, 17) * 80  # the jaw drops by up to 20 px
    both = blend_mask([closed, opened])
    assert (both >= np.maximum(blend_mask([closed]), blend_mask([opened])) - 0.01).all()


@pytest.mark.parametrize(
    "faces", [[face()], [face(40, at=(60, 150))], [face(size=250.0)], [face(at=(215, 128)), face()]]
)
def test_blend_columns_hold_the_mask_and_hardly_more(faces: list[np.ndarray]) -> None:
    touched = np.nonzero(blend_mask(faces).any(0))[0]
    columns = blend_columns(np.stack(faces))
    assert 0 <= columns.start * 8 <= touched[0]
    assert touched[-1] < columns.stop * 8 <= 256
    edges = (12, 243)  # where the mask is cut off, whatever the face is
    assert touched[0] - columns.start * 8 < 16 or touched[0] < edges[0]
    assert columns.stop * 8 - touched[-1] < 16 or touched[-1] > edges[1]
