"""Changed copies of speech: what is done to tempo, band and level can be heard in the numbers, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spear.augment import change_speech, near_silence

RATE = 16_000


class Dealt:
    """Chance that was dealt out before: what is chosen is what is wanted, and no colour, echo or noise is drawn."""

    def __init__(self, wanted: set[int], level: float = -40.0) -> None:
        self.wanted, self.level = wanted, level

    def choice(self, values: Iterable[int], p: Any = None) -> int:
        return next((value for value in values if value in self.wanted), min(values))

    def random(self) -> float:
        return 1.0  # no echo

    def normal(self, mean: float = 0.0, deviation: float = 1.0, size: Any = None) -> Any:
        return 0.0 if size is None else np.zeros(size)

    def uniform(self, low: float, high: float) -> float:
        return float(np.clip(self.level, low, high))

    def integers(self, high: int) -> int:
        return 0


def _changed(samples: NDArray[np.float64], chance: Any) -> tuple[NDArray[np.float32], float]:
    copy, speed = change_speech(samples.astype(np.float32), chance)
    assert copy.dtype == np.float32
    return copy, speed


def _speech(seconds: float = 2.0, seed: int = 0) -> NDArray[np.float64]:
    """Noise in syllables: something at every frequency up to 8 kHz."""
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * np.random.default_rng(seed).standard_normal(len(time)) * np.sin(np.pi * 4 * time) ** 2


def _power(samples: NDArray[np.float32], low: float, high: float) -> float:
    """Of the frequencies low..high Hz."""
    size = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(size[(hertz >= low) & (hertz < high)].sum())


def test_equal_chance_gives_equal_copies() -> None:
    one, two, other = (_changed(_speech(), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]
    assert one[0].shape != other[0].shape or not np.array_equal(one[0], other[0])


def test_a_copy_lasts_as_long_as_its_speed_says() -> None:
    """From 16 % slower to 19 % faster, never at the speed of the original, which is there anyhow."""
    speeds = set()
    for seed in range(60):
        copy, speed = _changed(_speech(1.0), np.random.default_rng(seed))
        assert len(copy) == int(np.ceil(RATE / speed - 1e-6))
        speeds.add(speed)
    assert speeds == {0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.13, 1.19}


@pytest.mark.parametrize("percent", [84, 96, 119])
def test_what_is_heard_at_a_time_is_heard_at_that_time_over_the_speed(percent: int) -> None:
    samples = np.zeros(2 * RATE)
    samples[round(1.19 * RATE)] = 1  # a click at 1.19 s
    copy, speed = _changed(samples, Dealt({percent, 50, 8000}))
    assert speed == percent / 100
    assert int(np.abs(copy).argmax()) / RATE == pytest.approx(1.19 / speed, abs=1 / RATE)  # 1 s, if 19 % faster


def test_pitch_changes_with_the_tempo() -> None:
    """As on a tape: a tone of 1000 Hz is one of 840 Hz in a copy of 84 %, which takes one second over 0.84."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    copy, _ = _changed(tone, Dealt({84, 50, 8000}))
    hertz = np.fft.rfftfreq(len(copy), 1 / RATE)
    assert hertz[np.abs(np.fft.rfft(copy)).argmax()] == pytest.approx(840, abs=1)
    assert len(copy) == 19_048  # 16 000 / 0.84 = 19 047.6


@pytest.mark.parametrize("high", [3400, 6000])
def test_a_narrow_band_ends_where_it_is_said_to(high: int) -> None:
    """40 dB, a hundredth of the size, a ten thousandth of the power, are taken away above it."""
    wide, _ = _changed(_speech(), Dealt({104, 50, 8000}))
    narrow, _ = _changed(_speech(), Dealt({104, 50, high}))
    kept = _power(narrow, 500, high - 100) / _power(wide, 500, high - 100)
    left = _power(narrow, high + 100, 7500) / _power(wide, high + 100, 7500)
    assert left / kept == pytest.approx(1e-4, rel=1e-2)


def test_a_high_pass_takes_24_db_an_octave() -> None:
    """Below 300 Hz: a tone of 150 Hz loses 24 dB beside one of 1200 Hz."""
    time = np.arange(RATE) / RATE
    tones = np.sin(2 * np.pi * 150 * time) + np.sin(2 * np.pi * 1200 * time)
    copy, speed = _changed(tones, Dealt({104, 300, 8000}))
    low, high = 150 * speed, 1200 * speed
    lost = 10 * np.log10(_power(copy, high - 5, high + 5) / _power(copy, low - 5, low + 5))
    assert lost == pytest.approx(24 * np.log2(300 / low), abs=0.3)


@pytest.mark.parametrize(("level", "size"), [(-40.0, 0.01), (-20.0, 0.1)])
def test_the_level_is_what_was_drawn_however_loud_the_speech_was(level: float, size: float) -> None:
    for loudness in (0.5, 20.0):
        copy, _ = _changed(loudness * _speech(), Dealt({104, 50, 8000}, level))
        assert copy.std() == pytest.approx(size, rel=0.01)


def test_what_is_too_loud_is_clipped() -> None:
    samples = np.zeros(RATE)
    samples[::1000] = 1  # 16 peaks, of which a standard deviation is a thirtieth: at -15 dB they are beyond 1
    copy, _ = _changed(samples, Dealt({104, 50, 8000}, level=-15.0))
    assert copy.max() == 1


def test_every_copy_is_finite_and_in_range() -> None:
    """Speech, digital silence, a direct current, a tenth of a second, one frame."""
    for samples in (_speech(), np.zeros(RATE), np.full(RATE, 0.3), _speech(0.1), _speech(0.04)):
        for seed in range(30):
            copy, _ = _changed(samples, np.random.default_rng(seed))
            assert np.isfinite(copy).all()
            assert np.abs(copy).max() <= 1


def test_silence_stays_quiet() -> None:
    """Noise 5 dB below a level of -15 dB at most: 0.1."""
    sizes = [float(_changed(np.zeros(RATE), np.random.default_rng(seed))[0].std()) for seed in range(60)]
    assert max(sizes) < 0.11
    assert np.median(sizes) < 0.01


def test_noise_hides_the_speech_by_no_more_than_was_drawn() -> None:
    """The gaps between syllables are filled up to 5 dB below the speech: the syllables can still be told."""
    time = np.arange(2 * RATE) / RATE
    for seed in range(40):
        copy, speed = _changed(_speech(), np.random.default_rng(seed))
        loudness = (copy.astype(np.float64) ** 2)[: len(copy) // 320 * 320].reshape(-1, 320).mean(1)
        rhythm = np.sin(np.pi * 4 * time[: len(copy)][::320][: len(loudness)] * speed) ** 4
        both = min(len(loudness), len(rhythm))
        assert np.corrcoef(loudness[:both], rhythm[:both])[0, 1] > 0.5


def test_near_silence_is_digital_or_a_quiet_room() -> None:
    """A third of the time nothing at all, else noise of -75 to -40 dB: 0.00018 to 0.01."""
    sizes = []
    for seed in range(90):
        quiet = near_silence(RATE, np.random.default_rng(seed))
        assert (quiet.shape, quiet.dtype) == ((RATE,), np.float32)
        assert np.array_equal(quiet, near_silence(RATE, np.random.default_rng(seed)))
        sizes.append(float(quiet.std()))
    rooms = [size for size in sizes if size]
    assert 15 < sizes.count(0.0) < 45
    assert 10 ** (-75 / 20) * 0.999 < min(rooms) < max(rooms) < 0.01001
