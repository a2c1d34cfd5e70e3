"""Controls beside stage 1's LD, which rewards a still mouth: does the mouth follow the sound, or what the pose tells?

One clip's audio drives the head of another. A mouth that follows the sound opens with the audio's owner and loses skill
on the pose's owner; one that reads the old mouth from the pose opens with the pose's owner and loses nothing.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from spear.clip import SAMPLE_RATE, Clip
from spear.nets.a2lm import A2LM, carried_lower_face
from spear.points import LOWER, UPPER, face_width, head_motion, lip_opening, spread_over_opening
from spear.scores.landmark import landmark_distance, opening_correlation
from spear.talker import features_of, speak

LEAST_FRAMES = 25
"""A correlation over less than a second says little."""


@dataclass(frozen=True)
class Controls:
    """What the controls found: totals, a row for each pair, and what was left out; all empty where there is no pair."""

    values: dict[str, float] = field(default_factory=dict)
    """swap_r_audio, swap_r_pose, swap_r_truths: means over the pairs, weighted with frames; wrong_audio_effect:
    from the mean LDs."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def controls(net: A2LM, clips: Sequence[Clip], most: int | None = None) -> Controls:
    """Swap and wrong audio over pairs of clips; at most `most` of the pairs, evenly spread.

    swap_r_audio, swap_r_pose: Pearson r of the predicted lip opening with that of the audio's and of the pose's owner;
    swap_r_truths: of the two owners' with each other, which a mouth that follows the one has with the other anyway.
    wrong_audio_effect: skill with the right audio less skill with the wrong one, both on the pose's owner; skill is
    1 - LD / LD of the baseline. Raises SpearError where a clip lacks its landmarks.
    """
    pairs = pair_up(clips)
    if not pairs:
        return Controls(notes=["no controls (swap, wrong audio): they take two clips with different sound"])
    if most is not None:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int)]
    rows = [row for audio, pose in pairs if (row := _pair_row(net, audio, pose)) is not None]
    short, notes = len(pairs) - len(rows), []
    if short:
        notes.append(
            f"controls: {short} of {len(pairs)} pairs left out, fewer than {LEAST_FRAMES} frames with both faces"
        )
    return Controls(_totals(rows) if rows else {}, rows, notes)


def pair_up(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Each clip, by id, and the one half the list further on, or the next after that with another sound."""
    clips = sorted(clips, key=lambda clip: clip.id)
    pairs = []
    for place, clip in enumerate(clips):
        start = place + len(clips) // 2
        others = (clips[(start + step) % len(clips)] for step in range(len(clips)))
        partner = next((other for other in others if not same_sound(clip, other)), None)
        if partner is not None:
            pairs.append((clip, partner))
    return pairs


def same_sound(one: Clip, other: Clip) -> bool:
    """Whether two clips sound the same for as long as both last, as a take does that several cameras filmed."""
    if one.audio_path == other.audio_path:
        return True
    sounds = [clip.storage.media(clip.audio_path) for clip in (one, other)]
    with wave.open(sounds[0]) as first, wave.open(sounds[1]) as second:
        while (a := first.readframes(SAMPLE_RATE)) and (b := second.readframes(SAMPLE_RATE)):
            both = min(len(a), len(b))
            if a[:both] != b[:both]:
                return False
    return True


def _pair_row(net: A2LM, audio: Clip, pose: Clip) -> dict[str, Any] | None:
    """One pair's controls over the frames that both have; None where too few of them have both faces."""
    frames = min(audio.facts.frames, pose.facts.frames)
    (heard, heard_found), (seen, seen_found) = audio.landmarks(), pose.landmarks()
    known = (heard_found[:frames] > 0) & (seen_found[:frames] > 0)
    if known.sum() < LEAST_FRAMES:
        return None
    references, truth = seen[spread_over_opening(seen, net.config.references)], seen[:frames]
    wrong, own = (speak(net, features_of(net, clip)[:frames], truth, references).numpy() for clip in (audio, pose))
    head = torch.from_numpy(head_motion(truth)[None])
    baseline = carried_lower_face(head, torch.from_numpy(references[None]))[0].numpy()
    opening = lip_opening(np.concatenate([truth[:, UPPER], wrong], axis=1))[known]
    of_audio, of_pose = lip_opening(heard[:frames])[known], lip_opening(truth)[known]
    width = face_width(truth)[known]
    ld_wrong, ld_own, ld_baseline = (
        100 * landmark_distance(pred[known], truth[known, LOWER], width) for pred in (wrong, own, baseline)
    )
    return {
        "audio": audio.id,
        "pose": pose.id,
        "frames": int(known.sum()),
        "swap_r_audio": opening_correlation(opening, of_audio),
        "swap_r_pose": opening_correlation(opening, of_pose),
        "swap_r_truths": opening_correlation(of_audio, of_pose),
        "wrong_audio_ld_percent": ld_wrong,
        "ld_percent": ld_own,
        "ld_baseline_percent": ld_baseline,
        "wrong_audio_effect": _skill_lost(ld_wrong, ld_own, ld_baseline),
    }


def _totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Weighted with frames; the effect is that of the mean LDs, since a mean of ratios favours still clips."""
    frames = [row["frames"] for row in rows]

    def mean(name: str) -> float:
        """Of one column, each clip weighted with its frames."""
        return float(np.average([row[name] for row in rows], weights=frames))

    lost = _skill_lost(mean("wrong_audio_ld_percent"), mean("ld_percent"), mean("ld_baseline_percent"))
    return {
        "swap_r_audio": mean("swap_r_audio"),
        "swap_r_pose": mean("swap_r_pose"),
        "swap_r_truths": mean("swap_r_truths"),
        "wrong_audio_effect": lost,
    }


def _skill_lost(wrong: float, own: float, baseline: float) -> float:
    # a picture that never moves has a perfect baseline: there is no skill to lose
    return (wrong - own) / baseline if baseline else 0.0
