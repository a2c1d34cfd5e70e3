"""Promises of spear.sync: late and early sound is found where it can be told; nothing is claimed where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spear.clip import SAMPLES_PER_FRAME
from spear.sync import AvOffset, estimate_offset

FRAMES = 250
TIME = np.arange(SAMPLES_PER_FRAME) / 16_000


def mouth(seed: int = 0, frames: int = FRAMES) -> NDArray[np.float64]:
    """An opening in 0..1 that takes a new value every five frames."""
    return np.repeat(np.random.default_rng(seed).uniform(0, 1, frames // 5), 5)


def sound(loudness: NDArray[np.float64], hertz: float = 2000) -> NDArray[np.float32]:
    """A tone in the band of an open mouth, each frame as loud as it says: (F,) -> (F * 640,)."""
    return (0.5 * loudness[:, None] * np.sin(2 * np.pi * hertz * TIME)).reshape(-1).astype(np.float32)


def estimate(opening: NDArray[np.float64], samples: NDArray[np.float32], missing: slice = slice(0)) -> AvOffset | None:
    found = np.ones(len(opening), bool)
    found[missing] = False
    return estimate_offset(opening, samples, found)


def known(offset: AvOffset | None) -> AvOffset:
    assert offset is not None
    return offset


@pytest.mark.parametrize("late", [-9, -6, -1, 0, 1, 5, 6, 9])
def test_the_sound_is_as_late_as_it_was_made(late: int) -> None:
    opening = mouth()
    found = known(estimate(opening, sound(np.roll(opening, late))))
    assert (found.frames, found.certain) == (late, True)
    assert 0.9 < found.r <= 1
    assert found.correction == (late if abs(late) > 1 else 0)  # people differ by a frame
    if late == 0:
        assert found.r_as_is == found.r
    else:
        assert found.r_as_is < found.r


def test_units_of_the_opening_and_loudness_of_the_sound_do_not_matter() -> None:
    opening = mouth()
    quiet = known(estimate(100 * opening + 7, 0.01 * sound(np.roll(opening, 3))))
    loud = known(estimate(opening, sound(np.roll(opening, 3))))
    assert (quiet.frames, quiet.certain) == (loud.frames, loud.certain) == (3, True)
    assert quiet.r == pytest.approx(loud.r, abs=1e-4)


def test_hum_and_hiss_that_no_mouth_opens_for_are_not_heard() -> None:
    opening = mouth()
    speech = sound(np.roll(opening, 4))
    other = sound(mouth(1), 100) + sound(mouth(2), 6000)
    assert known(estimate(opening, speech + other)).frames == 4


def test_noise_is_not_certain() -> None:
    """Thirty mouths that tremble, each with a noise that has nothing to do with it."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.1, FRAMES * SAMPLES_PER_FRAME).astype(np.float32)
        found = known(estimate(rng.uniform(0, 1, FRAMES), noise))
        assert not found.certain
        assert found.correction == 0


def test_regular_syllables_could_be_a_syllable_late() -> None:
    """A mouth that opens every six frames fits sound that is six frames late as well."""
    opening = np.tile([0.0, 0.3, 0.8, 1.0, 0.8, 0.3], 50)
    assert not known(estimate(opening, sound(opening))).certain


def test_halves_that_disagree_are_not_certain() -> None:
    opening = mouth()
    loudness = np.concatenate([np.roll(opening[:150], 2), np.roll(opening[150:], 7)])
    assert not known(estimate(opening, sound(loudness))).certain


def test_a_peak_at_the_end_of_the_search_is_not_certain() -> None:
    opening = mouth()
    for late in (-12, -11, 11, 12):
        assert not known(estimate(opening, sound(np.roll(opening, late)))).certain


@pytest.mark.parametrize(("frames", "certain"), [(125, True), (120, False), (75, False)])
def test_less_than_five_seconds_are_not_certain(frames: int, certain: bool) -> None:
    opening = mouth(frames=frames)
    found = known(estimate(opening, sound(np.roll(opening, 4))))
    assert (found.frames, found.certain) == (4, certain)


def test_frames_without_a_face_have_no_say() -> None:
    opening = mouth()
    samples = sound(np.roll(opening, 4))
    for guess in (0.5, 1e6, np.nan):
        wild = opening.copy()
        wild[60:100] = guess
        found = known(estimate(wild, samples, slice(60, 100)))
        assert (found.frames, found.certain) == (4, True)
        assert found.r > 0.9
    assert known(estimate(opening, samples, slice(120, None))).certain is False  # less than five seconds are left


def test_nothing_to_compare() -> None:
    opening = mouth()
    talk = sound(opening)
    assert estimate(opening, np.zeros_like(talk)) is None
    assert estimate(np.full(FRAMES, 0.3), talk) is None
    assert estimate(opening, talk, slice(48, None)) is None  # less than two seconds with a face
    assert estimate(opening, talk, slice(None)) is None
    assert estimate(opening[:45], talk[: 45 * SAMPLES_PER_FRAME]) is None
    assert estimate(opening[:0], talk[:0]) is None


def test_no_number_is_nan() -> None:
    """Half of the clip silent, a mouth that is still for the other half; and what is not finite is no number at all."""
    opening, loudness = mouth(), mouth()
    loudness[:125], opening[125:] = 0, 0.2
    found = known(estimate(opening, sound(loudness)))
    assert np.isfinite([found.r, found.r_as_is]).all()
    assert not found.certain
    broken = sound(mouth())
    broken[1000] = np.nan
    assert estimate(mouth(), broken) is None


def test_lengths_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"^250 openings, \(250,\) found and \(159999,\) samples do not fit each other$"
    ):
        estimate_offset(mouth(), sound(mouth())[:-1], np.ones(FRAMES, bool))
