"""Curves and distributions as SVG that stands in a page and takes its colours and fonts. Letters: F frames."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import FPS

if TYPE_CHECKING:
    from spear.report.page import Shown

FEW = 20
"""Below as many values a dot for each says more than a histogram."""
_COLOURS = {"#010101": "ink", "#020202": "rule", "#030303": "truth", "#040404": "pred", "#050505": "accent"}
_INK, _RULE, _TRUTH, _PRED, _ACCENT = _COLOURS
"""What matplotlib draws with; in the page the colours have names, so that they follow a light or dark screen."""
_LEFT, _RIGHT = 0.068, 0.982
"""Where the curves begin and end, as shares of the picture's width."""
_MOST_POINTS = 1500
"""Longer curves are thinned to the extremes of each stretch: more points than pixels only make the page heavy."""


@dataclass(frozen=True)
class Curves:
    """Curves over the time of one clip, and where in the picture the time axis lies, in percent of its width."""

    svg: str
    seconds: float
    pairs: bool
    """Whether there are lines of truth and prediction among them."""
    left: float = 100 * _LEFT
    width: float = 100 * (_RIGHT - _LEFT)


def curves(clip: Shown, name: str) -> Curves | None:
    """Lip openings, and LD (or PSNR where there is no LD) over time; None where neither was measured.

    name: begins the ids inside the picture; another one for each picture of the page.
    """
    panels: list[tuple[str, list[tuple[str, float, NDArray[np.float64]]]]] = []
    if _known(clip, "opening_truth") or _known(clip, "opening_pred"):
        lines = [(_TRUTH, 2.6, clip.series["opening_truth"]), (_PRED, 1.2, clip.series["opening_pred"])]
        panels.append(("Lip opening, % of face width", [(c, w, 100 * values) for c, w, values in lines]))
    for series, label, factor in (
        ("ld", "LD, % of face width", 100), ("psnr_crop", "PSNR, face crop, dB", 1), ("psnr_full", "PSNR, dB", 1)
    ):  # fmt: skip
        if _known(clip, series):
            panels.append((label, [(_ACCENT, 1.2, factor * clip.series[series])]))
            break
    if not panels:
        return None
    with _figure(9.6, 0.5 + 1.75 * len(panels), name, f"{', '.join(p[0] for p in panels)}, over time") as drawing:
        axes = drawing.figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (label, lines) in zip(axes, panels, strict=True):
            for colour, width, values in lines:
                _line(panel, values, colour, width)
            _plain(panel)
            panel.set_title(label, loc="left", fontsize=9, color=_INK, pad=4)
            if not label.startswith("PSNR"):
                panel.set_ylim(0, None)
        end = len(clip.windows) / FPS
        axes[-1].set_xlim(0, end)
        axes[-1].set_xlabel("time, s")
        height = 72 * (0.5 + 1.75 * len(panels))
        drawing.figure.subplots_adjust(_LEFT, 34 / height, _RIGHT, 1 - 18 / height, hspace=0.3)
    return Curves(drawing.svg, end, len(panels[0][1]) > 1)


def distribution(values: list[float], mean: float | None, label: str, name: str) -> str:
    """How values spread: a histogram, or a dot for each of fewer than FEW; a line at the mean. SVG; name: as `curves`.

    Raises ValueError where there is no value.
    """
    from matplotlib.ticker import MaxNLocator

    known = np.array(values, np.float64)
    with _figure(3.4, 1.9, name, f"distribution of {label} over {len(known)} values") as drawing:
        axes = drawing.figure.add_subplot()
        if len(known) < FEW:
            _dots(axes, known)
        else:
            counts, edges = np.histogram(known, bins=_bins(known))
            axes.bar((edges[1:] + edges[:-1]) / 2, counts, 0.92 * np.diff(edges), color=_ACCENT, linewidth=0)
            axes.set_ylim(0, None)
        _plain(axes, whole=True)
        if len(known) < FEW:
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if mean is not None and math.isfinite(mean):
            axes.axvline(mean, color=_INK, linewidth=1.2)
        axes.margins(x=0.06)
        drawing.figure.subplots_adjust(0.11, 0.15, 0.97, 0.96)
    return drawing.svg


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of 8 to 40 bins, as many as the root of the number of values."""
    return np.histogram_bin_edges(values, bins=min(max(8, math.isqrt(len(values))), 40))


def _dots(axes: Any, values: NDArray[np.float64]) -> None:
    """A dot for each value; those that would cover each other are stacked."""
    near, ordered = float(np.ptp(values)) / 30, np.sort(values)
    tops: list[float] = []  # the last value of each layer
    layers = []
    for value in ordered:
        layer = next((i for i, top in enumerate(tops) if value - top > near), len(tops))
        tops[layer : layer + 1] = [value]
        layers.append(layer)
    axes.plot(ordered, layers, "o", color=_ACCENT, markersize=7, markeredgewidth=0)
    axes.set_ylim(-0.7, max(4.3, len(tops) - 0.3))


def _line(axes: Any, values: NDArray[np.float64], colour: str, width: float) -> None:
    """One series over time, (F,), with gaps where it is NaN; dots for frames whose neighbours are NaN."""
    seconds, values = _thinned(values)
    found = np.isfinite(values)
    alone = found & ~np.append(False, found[:-1]) & ~np.append(found[1:], False)
    axes.plot(seconds, values, color=colour, linewidth=width, solid_joinstyle="round")
    axes.plot(seconds[alone], values[alone], "o", color=colour, markersize=1 + width, markeredgewidth=0)


def _thinned(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times, s, and values of a curve of at most about _MOST_POINTS: the lowest and the highest of each stretch."""
    stretch = math.ceil(2 * len(values) / _MOST_POINTS)
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values)) / FPS, values
    padded = np.append(values, np.full(-len(values) % stretch, np.nan)).reshape(-1, stretch)
    low = np.where(np.isfinite(padded), padded, np.inf).argmin(1)
    high = np.where(np.isfinite(padded), padded, -np.inf).argmax(1)
    picked = np.sort(np.stack([low, high], 1), 1)
    rows = np.arange(len(padded))[:, None]
    return ((rows * stretch + picked) / FPS).ravel(), padded[rows, picked].ravel()


def _plain(axes: Any, whole: bool = False) -> None:
    """Only what helps to read a value; whole: counts have no halves."""
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=whole))
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _known(clip: Shown, series: str) -> bool:
    return bool(np.isfinite(clip.series.get(series, ())).any())


class _Drawing:
    figure: Any
    svg = ""


@contextmanager
def _figure(width: float, height: float, name: str, label: str) -> Iterator[_Drawing]:
    """A matplotlib figure, inches, whose `svg` is there once it has been left without an error."""
    from io import StringIO

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "spear", "font.size": 9, "axes.edgecolor": _RULE}
    style |= {f"{kind}.color": _INK for kind in ("xtick", "ytick", "text")} | {"axes.labelcolor": _INK}
    drawing = _Drawing()
    with matplotlib.rc_context(style):
        drawing.figure = Figure(figsize=(width, height), frameon=False)
        yield drawing
        for axes in drawing.figure.axes:
            axes.patch.set_visible(False)
        text = StringIO()
        FigureCanvasSVG(drawing.figure).print_svg(text, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing.svg = _for_page(text.getvalue(), name, label)


def _for_page(svg: str, name: str, label: str) -> str:
    """A file's SVG as part of a page: named colours, the page's font, ids that no other picture has, and light."""
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None  # matplotlib always writes one
    body = svg[svg.index(">", size.end()) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' transform="rotate\(-?0 [^"]*"', "", body)
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(?:xlink:)?(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m[0]), body)  # a tenth of a px is enough
    for colour, called in _COLOURS.items():
        body = body.replace(colour, f"var(--{called})")
    body = re.sub(r"\s+", " ", body).replace("> <", "><").strip()
    return f'<svg {size[0]} role="img" aria-label="{label}">{body}</svg>'
