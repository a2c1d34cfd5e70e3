"""Is the sound of a clip late or early? The mouth's opening over time against the energy of the speech."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter1d

from spear.clip import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

Series = NDArray[np.float64]
Mask = NDArray[np.bool_]

_REACH = 10
"""Largest lag that is tried, frames: beyond it a peak is more often the next syllable than the sound."""
_SMOOTHING = 0.7
"""Gaussian sigma, frames, of the slopes that are compared. Slopes, since levels rise and fall with the phrases too:
of 258 GRID clips of 3 s slopes put 230 within a frame of in time, levels 220, and their peak is broader."""
_BAND = (1000, 3500)
"""Hz: the best of nine bands that were tried; hum and voicing below, hiss above tell less of the mouth."""
_NATURAL_LAG = -0.3
"""Lag of speech that is in time, frames, measured: the median over GRID's s1 (240 clips) and 18 clips of others,
which stray by .41 (standard deviation, without one that showed no peak).
The energy of a frame is that of the 40 ms after its picture, which alone is half a frame."""
_SMALLEST = 2
"""People's own lags and estimates spread by about a frame, so one frame is not told from none."""
_LEAST_FRAMES = 2 * FPS
"""Shorter clips leave too few frames in each half."""
_CERTAIN_FRAMES = 5 * FPS
"""With this and the bounds below, 1,814 certain pieces of six people, their sound shifted by up to 6 frames, were never
more than a frame off; of 4,786 pieces with the sound of another moment or person, 4 were corrected. Measured on the
footage that the bounds were chosen on; regular syllables against other regular ones fool them more often."""
_CERTAIN_R = 0.3
_CERTAIN_PROMINENCE = 3.5
"""How far the peak must stand out from other lags, times the root of the frames: chance correlations shrink with it."""
_STILL = 1e-9
"""Slopes that vary by no more are rounding errors of silence or of a mouth that does not move."""
_PEAK = 3
"""Frames to each side that belong to the peak itself."""
_HALVES_AGREE = 1.5
"""Frames by which the peak of each half may lie beside that of the whole."""
_AT_ONCE = 1000
"""Frames whose spectra are held together: those of ten minutes would be 200 MB."""


@dataclass(frozen=True)
class AvOffset:
    """How far the sound is from the pictures. frames: + = the sound is late; r: correlation at the best lag."""

    frames: int
    r: float
    r_as_is: float
    """Correlation of sound and pictures as they are."""
    certain: bool

    @property
    def correction(self) -> int:
        """Frames to correct: 0 unless the estimate is certain and larger than what people differ by."""
        return self.frames if self.certain and abs(self.frames) >= _SMALLEST else 0


def estimate_offset(opening: NDArray[np.floating], samples: NDArray[np.float32], found: Mask) -> AvOffset | None:
    """Estimate by how many frames (25 fps) the sound is late, from -10 to 10.

    opening: lip opening per frame (F,), any unit; samples: (F * 640,) at 16 kHz; found: (F,), False where no face was
    found, so that `opening` is a guess and is not compared. None where there is nothing to compare: less than two
    seconds, silence, a still mouth, numbers that are not finite. Raises ValueError where the lengths do not fit.
    """
    frames = len(opening)
    if samples.shape != (frames * SAMPLES_PER_FRAME,) or found.shape != (frames,):
        raise ValueError(f"{frames} openings, {found.shape} found and {samples.shape} samples do not fit each other")
    usable = ~binary_dilation(~found, iterations=2)  # the slope of a frame is made of its neighbours
    if usable.sum() < _LEAST_FRAMES:
        return None
    known = np.flatnonzero(found)
    mouth = _slope(np.interp(np.arange(frames), known, opening[known]))
    voice = _slope(_energy(samples))
    if not (mouth[usable].std() > _STILL and voice.std() > _STILL):  # nor where a number is NaN
        return None
    curve = _correlations(mouth, voice, usable)
    halves = [
        _peak(_correlations(mouth[part], voice[part], usable[part]))
        for part in (slice(0, frames // 2), slice(frames // 2, None))
    ]
    lag = _peak(curve)
    agree = all(abs(other - lag) <= _HALVES_AGREE for other in halves)
    offset = int(np.clip(round(lag - _NATURAL_LAG), -_REACH, _REACH))
    certain = agree and _stands_out(curve, int(usable.sum()))
    return AvOffset(offset, float(curve.max()), float(curve[_REACH]), certain)


def _stands_out(curve: Series, frames: int) -> bool:
    """Whether the peak of the correlations (21,) over so many frames is more than chance, and no rise to the end."""
    best = int(curve.argmax())
    others = np.delete(curve, slice(max(0, best - _PEAK), best + _PEAK + 1))
    prominence = float(curve[best] - others.max()) * np.sqrt(frames)
    inside = 0 < best < len(curve) - 1
    return bool(
        frames >= _CERTAIN_FRAMES and inside and curve[best] >= _CERTAIN_R and prominence >= _CERTAIN_PROMINENCE
    )


def _energy(samples: NDArray[np.float32]) -> Series:
    """Fourth root of the power in the band, (F * 640,) -> (F,): one loud vowel must not rule the correlation."""
    low, high = (round(hertz * SAMPLES_PER_FRAME / SAMPLE_RATE) for hertz in _BAND)
    windows, shape = samples.reshape(-1, SAMPLES_PER_FRAME), np.hanning(SAMPLES_PER_FRAME)
    blocks = (windows[i : i + _AT_ONCE] for i in range(0, len(windows), _AT_ONCE))
    power = [(np.abs(np.fft.rfft(block * shape, axis=1)[:, low:high]) ** 2).sum(1) for block in blocks]
    return np.asarray(np.concatenate(power) ** 0.25)


def _slope(series: Series) -> Series:
    return np.asarray(gaussian_filter1d(series, _SMOOTHING, order=1, mode="nearest"))


def _correlations(mouth: Series, voice: Series, usable: Mask) -> Series:
    """Correlation of mouth[f] with voice[f + lag] for each lag from -10 to 10: (21,); 0 where one of them is still."""
    rows = []
    for lag in range(-_REACH, _REACH + 1):
        here = slice(max(0, -lag), len(mouth) - max(0, lag))
        there = slice(max(0, lag), len(mouth) - max(0, -lag))
        a, b = mouth[here][usable[here]], voice[there][usable[here]]
        a, b = (x - x.mean() if x.size else x for x in (a, b))
        size = float(np.sqrt((a @ a) * (b @ b)))
        rows.append(float(a @ b) / size if size > 1e-12 else 0.0)
    return np.array(rows)


def _peak(curve: Series) -> float:
    """The lag of the highest correlation, to a part of a frame by a parabola through its neighbours."""
    best = int(curve.argmax())
    if not 0 < best < len(curve) - 1:
        return float(best - _REACH)
    before, at, after = curve[best - 1 : best + 2]
    bend = before - 2 * at + after
    return best - _REACH + (0.5 * (before - after) / bend if bend < 0 else 0.0)
