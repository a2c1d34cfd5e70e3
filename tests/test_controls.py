"""Controls with nets whose prediction is known: one copies what it hears, one the brows, one does not move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, make_clip
from torch import Tensor, nn

from spear.audio import write_wav
from spear.clip import Clip
from spear.controls import controls, pair_up, same_sound
from spear.nets.a2lm import A2LMConfig
from spear.points import LOWER, positions

BROW = positions([70])[0]
EARLY, LATE = [0, 20] * 15, [20, 0] * 15
"""Two mouths that open in turn, px over 30 frames."""


def mouth(opening: Tensor) -> Tensor:
    """The made-up lower face, (T, 57, 2) px, its lips `opening` (T,) px apart."""
    return torch.from_numpy(np.stack([face(float(o))[LOWER] for o in opening]))


class Stub(nn.Module):
    """Opens the mouth as far as `listen`, `look` or `sleep` tells; its features and brows hold the true opening."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.nothing = way, nn.Parameter(torch.zeros(1))
        # two references, the most closed and the most open mouth: their mean is 10 px open. Not light: no steadying
        self.config = A2LMConfig("mfcc", {}, (1, 1), pose="raw", references=2, light=False)

    def forward(self, features: Tensor, pose: Tensor, references: Tensor, head: Tensor) -> Tensor:
        opening = {
            "listen": features[0, :, 0, 0],
            "look": pose[0, :, BROW, 1],
            "sleep": torch.zeros(features.shape[1]),
        }[self.way]
        return mouth(opening)[None]


def speaker(folder: Path, opening: list[int], seed: int) -> Clip:
    """A clip of a still head whose features and one brow's height are the mouth's opening, px."""
    points = np.stack([face(o) for o in opening])
    points[:, BROW, 1] = opening
    clip = make_clip(folder, seed=seed, points=points)
    clip.write_features("mfcc", torch.tensor(opening, dtype=torch.float32)[:, None, None], {})
    return clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    root = tmp_path_factory.mktemp("clips")
    return [speaker(root / "a", EARLY, 0), speaker(root / "b", LATE, 1)]


def test_a_net_that_copies_what_it_hears(clips: list[Clip]) -> None:
    found = controls(Stub("listen"), clips)
    assert found.values["swap_r_audio"] == pytest.approx(1)
    assert found.values["swap_r_pose"] == pytest.approx(-1)  # the two mouths open in turn
    assert found.values["swap_r_truths"] == pytest.approx(-1)
    # with its own audio LD is 0, skill 1; with the other's the lips are 20 px too far apart or too close in every
    # frame, those of the baseline 10 px: LD is twice the baseline's, skill -1; 1 - -1 = 2
    assert found.values["wrong_audio_effect"] == pytest.approx(2, rel=1e-4)
    assert found.notes == []


def test_a_net_that_reads_the_old_mouth_from_the_brows(clips: list[Clip]) -> None:
    values = controls(Stub("look"), clips).values
    assert values["swap_r_audio"] == pytest.approx(-1)
    assert values["swap_r_pose"] == pytest.approx(1)
    assert values["wrong_audio_effect"] == 0


def test_a_still_mouth(clips: list[Clip]) -> None:
    values = controls(Stub("sleep"), clips).values
    assert values.pop("swap_r_truths") == pytest.approx(-1)  # whatever the net does
    assert values == {"swap_r_audio": 0, "swap_r_pose": 0, "wrong_audio_effect": 0}


def test_a_pair_by_hand(clips: list[Clip]) -> None:
    rows = controls(Stub("listen"), clips).pairs
    assert [(row["audio"], row["pose"], row["frames"]) for row in rows] == [("a", "b", 30), ("b", "a", 30)]
    # 10 px of opening move each of the 20 points of a lip's ring by 5 |sin| px, in all 5 * 12.6275 px; two rings, 57
    # points, a face 170 px wide: LD of the baseline 2 * 5 * 12.6275 / 57 / 170 = 1.3031 %
    assert rows[0]["ld_percent"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["ld_baseline_percent"] == pytest.approx(1.3031, rel=1e-3)
    assert rows[0]["wrong_audio_ld_percent"] == pytest.approx(2 * 1.3031, rel=1e-3)


def test_totals_are_weighted_with_frames(tmp_path: Path) -> None:
    long = [speaker(tmp_path / name, way * 2, seed) for seed, (name, way) in enumerate([("a", EARLY), ("c", LATE)])]
    short = speaker(tmp_path / "b", [0] * 30, 2)  # its mouth is still: r is 0, and a baseline without error
    found = controls(Stub("listen"), [*long, short])
    assert [(row["audio"], row["pose"], row["frames"]) for row in found.pairs] == [
        ("a", "b", 30), ("b", "c", 30), ("c", "a", 60),
    ]  # fmt: skip
    # r with the audio's owner: 1 on b (the mouth copies a), 0 from b (still), 1: (30 + 0 + 60) / 120
    assert found.values["swap_r_audio"] == pytest.approx(0.75)
    # with the pose's owner: 0, 0, -1
    assert found.values["swap_r_pose"] == pytest.approx(-0.5)
    # of the true mouths: a and b, b and c 0 (b is still), c and a -1
    assert found.values["swap_r_truths"] == pytest.approx(-0.5)
    assert [row["swap_r_truths"] for row in found.pairs] == pytest.approx([0, 0, -1])
    # px of opening: wrong 10, 10, 20; own 0; baseline 0, 10, 10. (300 + 300 + 1200) / (0 + 300 + 600) = 2
    assert found.values["wrong_audio_effect"] == pytest.approx(2, rel=1e-4)


def test_the_true_mouths_are_compared_where_both_have_a_face(tmp_path: Path) -> None:
    one, other = (speaker(tmp_path / name, EARLY, seed) for seed, name in enumerate("ab"))
    points, confidence = other.landmarks()
    points[:2] = points[1::-1]  # two frames in which its mouth is wrong, but there is no face
    confidence[:2] = 0
    other.write_landmarks(points, confidence, {"detector": "made up"})
    found = controls(Stub("listen"), [one, other])
    assert [(row["frames"], row["swap_r_truths"]) for row in found.pairs] == [(28, pytest.approx(1))] * 2
    assert found.values["swap_r_truths"] == pytest.approx(1)


def test_partners_are_half_the_list_further_on(tmp_path: Path) -> None:
    made = {name: make_clip(tmp_path / name, 4, seed) for seed, name in enumerate("dacb")}
    pairs = [(one.id, other.id) for one, other in pair_up(list(made.values()))]
    assert pairs == [("a", "c"), ("b", "d"), ("c", "a"), ("d", "b")]
    # a and c become one take that two cameras filmed, one of them a frame longer
    sound = np.linspace(-0.5, 0.5, 5 * 640).astype(np.float32)
    write_wav(made["a"].audio_path, sound)
    write_wav(made["c"].audio_path, sound[:-640])
    assert same_sound(made["a"], made["c"])
    assert not same_sound(made["a"], made["b"])
    pairs = [(one.id, other.id) for one, other in pair_up(list(made.values()))]
    assert pairs == [("a", "d"), ("b", "d"), ("c", "b"), ("d", "b")]


def test_without_two_sounds_there_is_nothing_to_swap(clips: list[Clip], tmp_path: Path) -> None:
    twin = speaker(tmp_path / "twin", EARLY, 0)
    for chosen in ([], clips[:1], [clips[0], twin]):
        found = controls(Stub("listen"), chosen)
        assert (found.values, found.pairs) == ({}, [])
        assert found.notes == ["no controls (swap, wrong audio): they take two clips with different sound"]


def test_short_pairs_are_left_out_and_counted(clips: list[Clip], tmp_path: Path) -> None:
    short = speaker(tmp_path / "c", EARLY[:24], 2)
    hidden = speaker(tmp_path / "d", EARLY, 3)
    points, confidence = hidden.landmarks()
    confidence[:6] = 0
    hidden.write_landmarks(points, confidence, {"detector": "made up"})
    found = controls(Stub("listen"), [*clips, short, hidden])
    assert found.pairs == []  # a with c, b with d, c with a, d with b
    assert found.notes == ["controls: 4 of 4 pairs left out, fewer than 25 frames with both faces"]
    found = controls(Stub("listen"), [*clips, short])
    assert [(row["audio"], row["pose"]) for row in found.pairs] == [("a", "b")]
    assert found.notes == ["controls: 2 of 3 pairs left out, fewer than 25 frames with both faces"]


def test_at_most_so_many_pairs_evenly_spread(tmp_path: Path) -> None:
    made = [speaker(tmp_path / f"{i}", EARLY, i) for i in range(5)]
    assert [row["audio"] for row in controls(Stub("listen"), made, most=3).pairs] == ["0", "2", "4"]
    assert len(controls(Stub("listen"), made, most=9).pairs) == 5
