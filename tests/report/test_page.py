"""Promises of spear.report: the page needs nothing beside it, hides nothing, and works in a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from browser import Browser, chromium
from made_up import face

import spear.report.media
from spear.clip import CROP, FPS
from spear.errors import SpearError, UnusableClip
from spear.points import LOWER, N_LOWER
from spear.report.choice import Moment, clips_to_show, moments_to_show
from spear.report.media import film
from spear.report.page import CSV, JSON, PAGE, Shown, check_report, write_report
from spear.report.plots import _thinned, curves, distribution
from spear.report.tables import words
from spear.scores.compare import Scores
from spear.scores.labels import label_of, number

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\udcff"
WIDTH, HEIGHT = 96, 64
NOTHING = np.full(4, np.nan)
IDENTITY = np.array([1.0, 0.0, 0.0, 0.0])


def shown(
    name: str, frames: int = 10, points: bool = False, sound: Path | None = None, **series: list[float] | float
) -> Shown:
    """A pair of small videos, the prediction blue and the truth yellow; a series may be one number for all frames."""
    values = {key: np.broadcast_to(np.array(value, np.float64), (frames,)) for key, value in series.items()}
    none = np.full((frames, N_LOWER, 2), np.nan, np.float32)
    blue, yellow = (np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in ((30, 60, 200), (200, 180, 40)))

    def pictures() -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        for _ in range(frames):
            yield blue, yellow

    at = np.repeat(face(size=40, at=(48, 28))[None, LOWER], frames, 0) if points else none
    windows = np.tile(NOTHING, (frames, 1))
    row = {"clip": name, "frames": frames} | {key: float(np.mean(value)) for key, value in values.items()}
    if "ld" in row:
        row["ld_percent"] = 100 * row.pop("ld")
    return Shown(name, row, values, at, at, windows, pictures, sound, sound)


def scores(clips: list[Shown], **more: Any) -> Scores:
    rows = [clip.row for clip in clips]
    names = [name for name in (rows[0] if rows else ()) if isinstance(rows[0][name], float)]
    values = {name: float(np.mean([row.get(name, np.nan) for row in rows])) for name in names}
    return Scores(more.pop("protocol", {"fps": 25}), more.pop("values", values), more.pop("rows", rows), **more)


def page_of(folder: Path, clips: list[Shown], **more: Any) -> str:
    return write_report(folder, scores(clips, **more), clips).read_text(encoding="utf-8")


def videos_of(page: str, folder: Path) -> list[Path]:
    """The videos that the page holds, as files."""
    paths = []
    for i, text in enumerate(re.findall(r"data:video/mp4;base64,([\w+/=]+)", page)):
        paths.append(folder / f"{i}.mp4")
        paths[-1].write_bytes(base64.b64decode(text))
    return paths


def seconds_of(path: Path) -> dict[str, float]:
    """How long each track is, by its kind."""
    with av.open(str(path)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


# what is shown ----------------------------------------------------------------------------------------------------


def test_of_fourteen_clips_the_six_worst_and_the_six_best_are_shown() -> None:
    clips = [shown(str(i), 3, ld=i / 100) for i in range(14)]
    assert clips_to_show(clips) == [13, 12, 11, 10, 9, 8, 5, 4, 3, 2, 1, 0]
    assert clips_to_show(clips[:3]) == [2, 1, 0]
    better = [shown(str(i), 3, psnr_crop=20 + i) for i in range(14)]
    assert clips_to_show(better) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]  # a low PSNR is a bad one


def test_clips_without_a_number_are_left_out_first() -> None:
    clips = [shown("a", 3, ld=[np.nan] * 3), shown("b", 3, ld=[0.1, np.nan, 0.3]), shown("c", 3, ld=0.5)]
    assert clips_to_show(clips) == [2, 1, 0]
    assert clips_to_show([clips[0]] * 9 + [clips[2]] * 5) == [9, 10, 11, 12, 13, 0, 1, 2, 3, 4, 5, 6]
    assert clips_to_show([shown(str(i), 3, fid=1.0) for i in range(14)]) == list(range(12))
    assert clips_to_show([]) == []


def test_worst_and_best_moments_are_a_second_apart_and_at_most_two_of_a_clip() -> None:
    first = np.full(60, 0.05)
    first[[10, 20, 34, 35, 59]] = [0.9, 0.8, 0.7, 0.6, 0.5]  # 20 and 34 are too near to 10; 35 is far enough
    second = np.full(60, 0.06)
    second[40] = 0.65
    worst, best = moments_to_show([shown("a", 60, ld=first), shown("b", 60, ld=second)])
    assert worst == [Moment(0, 10, 0.9), Moment(1, 40, 0.65), Moment(0, 35, 0.6), Moment(1, 0, 0.06)]
    assert best == [Moment(0, 0, 0.05), Moment(0, 25, 0.05), Moment(1, 1, 0.06), Moment(1, 26, 0.06)]


def test_the_moments_are_six_over_all_clips_and_no_frame_is_both() -> None:
    clips = [shown(str(i), 30, ld=[i + 1] + [0.5] * 28 + [i + 0.9]) for i in range(5)]
    worst, _ = moments_to_show(clips)
    assert [(m.clip, m.frame) for m in worst] == [(4, 0), (4, 29), (3, 0), (3, 29), (2, 0), (2, 29)]
    assert moments_to_show([shown("a", 1, ld=0.1)]) == ([Moment(0, 0, 0.1)], [])
    assert moments_to_show([shown("a", 1, ld=np.nan)]) == ([], [])


def test_without_ld_the_lowest_psnr_is_the_worst() -> None:
    worst, best = moments_to_show([shown("a", 30, psnr_crop=[20.0] + [30.0] * 28 + [40.0], psnr_full=1.0)])
    assert (worst[0], best[0]) == (Moment(0, 0, 20.0), Moment(0, 29, 40.0))


# the files --------------------------------------------------------------------------------------------------------


def test_json_and_csv_hold_the_scores(tmp_path: Path) -> None:
    clips = [shown("a,b", 3, ld=0.1234567890123), shown('c"d', 3, psnr_crop=30.0)]
    rows = [clips[0].row | {"lip_opening_r": None}, clips[1].row | {"ssim_crop": float("nan")}]
    found = scores(clips, rows=rows, values={"ld_percent": 12.3})
    write_report(tmp_path, found, clips)
    assert json.loads((tmp_path / JSON).read_text()) == json.loads(found.to_json())
    read = list(csv.DictReader(io.StringIO((tmp_path / CSV).read_text())))
    assert list(read[0]) == ["clip", "frames", "ld_percent", "lip_opening_r", "psnr_crop", "ssim_crop"]
    assert list(read[0].values()) == ["a,b", "3", "12.34567890123", "", "", ""]
    assert list(read[1].values()) == ['c"d', "3", "", "", "30.0", ""]


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    clips = [shown("a", 6, points=True, ld=[0.1, 0.2, np.nan, 0.1, 0.3, 0.2], opening_pred=0.1, opening_truth=0.2)]
    one, two = page_of(tmp_path / "1", clips), page_of(tmp_path / "2", clips)
    assert one == two
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == [PAGE, CSV, JSON]


def test_after_an_exception_nothing_is_new(tmp_path: Path) -> None:
    good = shown("a", 3, ld=0.1)

    def fail() -> Iterator[Any]:
        yield from good.frames()
        raise RuntimeError("mine")

    bad = Shown(**{**vars(shown("a", 5, ld=0.1)), "frames": fail})
    with pytest.raises(RuntimeError, match="mine"):
        write_report(tmp_path, scores([bad]), [bad])
    assert list(tmp_path.iterdir()) == []
    page_of(tmp_path, [good])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="mine"):
        write_report(tmp_path, scores([bad], notes=["new"]), [bad])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_is_overwritten_and_nothing_else(tmp_path: Path) -> None:
    page_of(tmp_path / "r", [shown("a", 3, ld=0.1)])
    assert "second" in page_of(tmp_path / "r", [shown("a", 3, ld=0.1)], notes=["second"])
    for name, complaint in ((PAGE, "is no report"), (JSON, "belongs to no report"), (CSV, "belongs to no report")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(SpearError) as caught:
            check_report(folder)
        assert str(caught.value) == f"{folder / name} is there already and {complaint}; give another folder"
        assert (folder / name).read_text() == "mine"


def test_fewer_frames_than_were_scored_get_one_line(tmp_path: Path) -> None:
    clip = Shown(**{**vars(shown("a", 5, ld=0.1)), "frames": shown("a", 3).frames})
    with pytest.raises(SpearError) as caught:
        write_report(tmp_path, scores([clip]), [clip])
    assert str(caught.value) == "a gives 3 frames, 5 were scored; leave its videos alone and run again"


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ld of a must be of shape \(10,\), not \(9,\)"):
        Shown(**{**vars(shown("a")), "series": {"ld": np.zeros(9)}})


# the page ---------------------------------------------------------------------------------------------------------


def test_hostile_names_are_text(tmp_path: Path) -> None:
    clip = shown(HOSTILE, 3, ld=0.1)
    clip.row[HOSTILE] = HOSTILE
    page = page_of(
        tmp_path, [clip], notes=[HOSTILE], protocol={HOSTILE: HOSTILE, "pred": HOSTILE, "truth": HOSTILE},
        against=[{"table": HOSTILE, "model": HOSTILE, "ld": HOSTILE, "measured": False}],
    )  # fmt: skip
    assert "<script>alert" not in page
    assert "\"'&{{" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;{{ 7 * 7 }}\\udcff" in page


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    clip = shown("a", 30, points=True, ld=np.linspace(0, 1, 30), opening_pred=0.1, opening_truth=0.2, psnr_crop=30.0)
    page = page_of(tmp_path, [clip])
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    links = re.findall(r'\b(?:src|href|poster|data|action|srcset)="([^"]{0,20})', page)
    assert {link[:1] if link.startswith("#") else link.split(",")[0][:14] for link in links} == {
        "#", "data:", "data:video/mp4", "data:image/jpe",
    }  # fmt: skip
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", page))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_what_is_not_defined_is_a_dash_that_sorts_last(tmp_path: Path) -> None:
    clips = [shown("a", 3, ld=0.1), shown("b", 3, ld=0.2)]
    rows = [clips[0].row | {"lip_opening_r": None}, clips[1].row | {"lip_opening_r": 0.5}]
    page = page_of(tmp_path, clips, rows=rows, values={"ld_percent": None, "fid": None, "lip_opening_r": 0.5})
    assert re.search(r'>a</a></th><td data-key="3">3</td>.*<td>-</td>', page)
    assert '<td data-key="0.5">0.5000</td>' in page
    assert re.search(r">FID</th><td>-</td>", page)


def test_totals_have_label_unit_and_interval(tmp_path: Path) -> None:
    values = {"ld_ratio": 0.02, "ld_percent": 2.0, "ld_px256": 3.4, "psnr_crop": 30.0, "new_score": 7.0}
    page = page_of(
        tmp_path, [], values=values, rows=[], intervals={"ld_percent": [1.5, 2.5], "psnr_crop": [29.0, 31.25]}
    )
    text = re.sub(r"<[^>]*>", "|", page)
    assert re.search(r"LD\|+0\.0200\|+2\.0000\|+1\.5000 to 2\.5000\|+3\.4000", text)
    assert re.search(r"PSNR, face crop\|+30\.00\|+dB\|+29\.00 to 31\.25", text)
    assert re.search(r"new score\|+7\.0000\|", text)
    assert [label_of(name) for name in ("ld_px256", "psnr_crop")] == [("LD", "px at 256"), ("PSNR, face crop", "dB")]


def test_notes_groups_and_published_tables_are_there_where_there_are_some(tmp_path: Path) -> None:
    clips = [shown("a", 3, ld=0.1)]
    page = page_of(tmp_path / "1", clips)
    for anchor in ("notes", "groups", "published"):
        assert f'id="{anchor}"' not in page
    page = page_of(
        tmp_path / "2", clips, notes=["left out: b: it is damaged"], protocol={"by": "emotion"},
        groups={"happy": {"clips": 1, "frames": 3, "ld_percent": 10.0}},
        against=[{"table": "Table 2", "model": "Other", "ld": 0.1, "psnr": "28.90", "measured": False},
                 {"table": "Table 2", "model": "spear", "ld": 0.123456789, "measured": True}],
    )  # fmt: skip
    assert "<li>left out: b: it is damaged</li>" in page
    assert "By emotion" in page
    assert "Published by others under their own protocol; units as they print them." in page
    rows = re.findall(r"<tr[^>]*>.*?</tr>", page[page.index("Table 2</caption>") :])
    assert re.findall(r"<th[^>]*>(.*?)</th>", rows[0]) == ["Model", "LD", "PSNR"]
    assert re.findall(r"<td>(.*?)</td>", rows[1]) == ["0.1", "28.90"]
    assert rows[2].startswith('<tr class="measured">')
    assert re.findall(r"<td>(.*?)</td>", rows[2]) == ["0.1235", "-"]


def test_only_twelve_clips_are_shown_and_the_page_says_so(tmp_path: Path) -> None:
    clips = [shown(f"clip_{i:02d}", 2, ld=i / 100) for i in range(14)]
    page = page_of(tmp_path, clips)
    told = "12 of 14 clips have players and curves, the 6 with the highest LD and the 6 with the lowest LD; 2 were left"
    assert told in page
    assert page.count("<video") == 24
    linked = re.findall(r'<a href="#clip-\d+">(clip_\d\d)</a></th>', page)
    assert sorted(linked) == [f"clip_{i:02d}" for i in range(14) if i not in (6, 7)]
    assert "have players" not in page_of(tmp_path, clips[:12])


def test_psnr_alone_makes_a_report(tmp_path: Path) -> None:
    page = page_of(tmp_path, [shown("a", 30, psnr_crop=np.linspace(20, 40, 30))])
    assert "The lowest PSNR, face crop" in page
    assert "PSNR, face crop 20.00 dB" in page
    assert "PSNR, face crop, dB</text>" in page  # the curve
    assert "Lip opening" not in page
    assert "predicted points" not in page


def test_a_report_without_any_series(tmp_path: Path) -> None:
    page = page_of(tmp_path, [shown("a", 3)], values={"fid": 12.0})
    assert 'id="moments"' not in page
    assert page.count("<video") == 2


def test_progress_counts_every_frame_that_is_read(tmp_path: Path) -> None:
    clips, seen = [shown("a", 3, ld=0.1), shown("b", 4, ld=0.2)], []
    write_report(tmp_path, scores(clips), clips, lambda *told: seen.append(told))
    assert [done for done, _, _ in seen] == list(range(1, 8))
    assert seen[-1] == (7, 7, "a, report")  # the worst first


def test_words_of_the_protocol() -> None:
    assert words(["a", 1, {"b": ["c", None]}]) == "a, 1, b: c, None"
    assert number(0.0000123) == "1.23e-05"


# pictures ---------------------------------------------------------------------------------------------------------


def test_players_show_the_first_minute_with_its_sound(
    tmp_path: Path, speech_wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spear.report.media, "PREVIEW_SECONDS", 1)
    monkeypatch.setattr("spear.report.page.PREVIEW_SECONDS", 1)
    page = page_of(tmp_path, [shown("a", 40, sound=speech_wav, ld=np.linspace(0.1, 0.2, 40))])
    assert "The players show the first 1 s of 2 s." in page
    for path in videos_of(page, tmp_path):
        assert seconds_of(path) == {"video": 1.0, "audio": pytest.approx(1.0, abs=0.05)}
    assert page.count(" muted ") == 1  # both have sound: one is heard


def test_frames_are_read_once_and_no_farther_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spear.report.media, "PREVIEW_SECONDS", 1)
    clip, calls = shown("a", 100, ld=0.1), []

    def frames() -> Iterator[Any]:
        for i, pair in enumerate(clip.frames()):
            calls.append(i)
            yield pair

    watched = Shown(**{**vars(clip), "frames": frames})
    assert set(film(watched, tmp_path, True, {30}, lambda _: None).faces) == {30}
    assert calls == list(range(31))


def test_large_frames_are_made_small_and_small_ones_stay(tmp_path: Path) -> None:
    def frames(height: int, width: int) -> Any:
        return lambda: iter([(np.zeros((height, width, 3), np.uint8),) * 2] * 2)

    for size, wanted in (((720, 1280), (640, 360)), ((HEIGHT, WIDTH), (WIDTH, HEIGHT)), ((65, 97), (98, 66))):
        made = film(Shown(**{**vars(shown("a", 2)), "frames": frames(*size)}), tmp_path, True, (), lambda _: None)
        assert [(preview.width, preview.height) for preview in made.previews] == [wanted, wanted]


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    held = []
    tracemalloc.start()
    film(shown("a", 300), tmp_path, True, {3}, lambda _: held.append(tracemalloc.get_traced_memory()[0]))
    tracemalloc.stop()
    assert held[-1] - held[100] < WIDTH * HEIGHT * 3


def test_faces_have_red_predicted_and_green_true_points(tmp_path: Path) -> None:
    grey = np.full((CROP, CROP, 3), 90, np.uint8)
    pred, truth = (face(opening, at)[None, LOWER] for opening, at in ((24, (128, 136)), (4, (128, 120))))
    for painted in (grey, None):
        clip = Shown("a", {}, {}, pred, truth, IDENTITY[None], lambda p=painted: iter([(p, grey)]), None, None)
        found = film(clip, tmp_path, False, {0}, lambda _: None).faces[0]
        left, right = (
            cv2.imdecode(np.frombuffer(f, np.uint8), 1)[..., ::-1].astype(int) for f in (found.pred, found.truth)
        )
        assert found.painted is (painted is not None)
        (x, y), (u, v) = np.round([pred[0, 8], truth[0, 8]]).astype(int)  # the chin
        assert left[y, x, 0] > left[y, x, 1] + 60
        for picture in (left, right):
            assert picture[v, u, 1] > picture[v, u, 0] + 60
        assert not (right[..., 0] > right[..., 1] + 60).any()
        assert left[10, 10] == pytest.approx([90] * 3 if found.painted else [50] * 3, abs=3)


def test_frames_that_were_not_painted_are_grey_and_told(tmp_path: Path) -> None:
    clip = shown("a", 4, points=True, ld=[0.4, 0.1, 0.1, 0.1])
    half = Shown(**{**vars(clip), "frames": lambda: ((p if i else None, t) for i, (p, t) in enumerate(clip.frames()))})
    page = page_of(tmp_path, [half])
    assert "1 of 4 frames were not painted" in page
    assert "0.00 s, not painted" in page
    with av.open(str(videos_of(page, tmp_path)[0])) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert np.ptp(frames[0][:20], axis=-1).max() < 12 < 100 < np.ptp(frames[1][:20], axis=-1).min()


def test_what_cannot_be_read_or_heard_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    with spear.report.media.VideoWriter(silent, 16, 16) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))

    def damaged() -> Iterator[Any]:
        raise UnusableClip("a.mp4 is damaged; replace it")
        yield

    clips = [Shown(**{**vars(shown("a", 3, ld=0.2)), "frames": damaged}), shown("b", 3, sound=silent, ld=0.1)]
    page = page_of(tmp_path / "report", clips)
    assert "a: no players in this report: a.mp4 is damaged; replace it" in page
    assert "b: no sound in a player of this report: " in page
    assert page.count("<video") == 2
    assert "The frame could not be read." in page
    assert "Without sound." in page


# plots ------------------------------------------------------------------------------------------------------------


def test_plots_keep_the_numbers_on_their_axes_and_take_the_colours_of_the_page() -> None:
    svg = distribution([0.123, 0.124, 0.127], 0.125, "LD", "s0")
    assert re.findall(r">([\d.]+)</text>", svg) == ["0.123", "0.124", "0.125", "0.126", "0.127"]
    assert "var(--accent)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000", "#ffffff"}
    assert "font-family" not in svg
    assert len(distribution(list(np.linspace(0, 1, 500)), None, "LD", "s0")) < 20_000


def test_one_value_many_times_is_no_error() -> None:
    assert "<svg" in distribution([100.0] * 3, 100.0, "PSNR", "s0")
    assert "<svg" in distribution([100.0] * 300, None, "PSNR", "s0")


def test_long_curves_keep_their_extremes_and_stay_light() -> None:
    values = np.zeros(90_001)
    values[77_777], values[50:90] = 5.0, np.nan
    seconds, thinned = _thinned(values)
    assert len(thinned) <= 1502
    assert seconds[np.nanargmax(thinned)] == 77_777 / FPS
    assert (np.diff(seconds) >= 0).all()
    drawn = curves(shown("a", 90_001, ld=values), "c")
    assert drawn is not None
    assert drawn.seconds == 90_001 / FPS
    assert len(drawn.svg) < 100_000


def test_a_frame_between_two_without_a_face_is_a_dot() -> None:
    alone = curves(shown("a", 9, ld=[np.nan] * 4 + [0.1] + [np.nan] * 4), "c")
    together = curves(shown("a", 9, ld=0.1), "c")
    assert alone is not None
    assert together is not None
    assert alone.svg.count("<use") == together.svg.count("<use") + 1
    assert curves(shown("a", 9, ld=[np.nan] * 9), "c") is None


def test_drawing_and_templates_come_with_the_first_report() -> None:
    code = "import sys, spear.report.page; print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Iterator[Browser]:
    """A report of three clips of 1.6 s in a browser; one of them has no lip opening r."""
    if chromium() is None:
        pytest.skip("no chromium on this machine")
    folder = tmp_path_factory.mktemp("page")
    waves = [0.1 + 0.05 * np.sin(np.arange(40) / 3 + i) for i in range(3)]
    clips = [
        shown(name, 40, True, speech_wav, ld=wave, opening_pred=wave, opening_truth=wave[::-1], psnr_crop=30.0)
        for name, wave in zip(("clip_10", "clip_9", HOSTILE), waves, strict=True)
    ]
    rows = [clip.row | {"lip_opening_r": r} for clip, r in zip(clips, (0.5, None, 0.25), strict=True)]
    page = write_report(folder, scores(clips, rows=rows, notes=["x" * 300]), clips)
    with Browser(folder / "profile") as browser:
        browser.screen(1280, 900)
        browser.open(page)
        yield browser


def column(browser: Browser, heading: str) -> list[str]:
    """The texts of one column of the per-clip table, from above."""
    return browser.evaluate(f"""(() => {{
        const table = document.querySelector(".clips");
        const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.startsWith("{heading}"));
        return [...table.tBodies[0].rows].map(row => row.cells[at].textContent);
    }})()""")


def click_heading(browser: Browser, heading: str) -> str:
    """Click on a heading; what the order is called now."""
    return browser.evaluate(f"""(() => {{
        const cell = [...document.querySelectorAll(".clips thead th")].find(c => c.textContent.startsWith("{heading}"));
        cell.querySelector("button").click();
        return cell.getAttribute("aria-sort");
    }})()""")


def test_the_page_opens_without_an_error_or_a_request(opened: Browser) -> None:
    opened.wait("[...document.querySelectorAll('video')].every(video => video.readyState >= 1 && !video.error)")
    assert opened.told("Runtime.exceptionThrown") == []
    assert [e for e in opened.told("Log.entryAdded") if e["entry"]["level"] == "error"] == []
    assert opened.told("Runtime.consoleAPICalled") == []
    schemes = {event["request"]["url"].split(":")[0] for event in opened.told("Network.requestWillBeSent")}
    assert "file" in schemes
    assert schemes <= {"file", "data", "blob", "about"}
    assert opened.evaluate("document.title") == "Scores of 3 clips - SPEAR"
    assert opened.evaluate("[...document.images].every(image => image.alt && image.naturalWidth === 256)")


def test_a_click_on_a_heading_sorts_numbers_as_numbers_and_missing_ones_last(opened: Browser) -> None:
    assert click_heading(opened, "lip opening: r") == "ascending"
    assert column(opened, "lip opening: r") == ["0.2500", "0.5000", "-"]
    assert click_heading(opened, "lip opening: r") == "descending"
    assert column(opened, "lip opening: r") == ["0.5000", "0.2500", "-"]
    click_heading(opened, "clip")
    assert column(opened, "clip")[1:] == ["clip_9", "clip_10"]
    click_heading(opened, "clip")
    assert column(opened, "clip")[:2] == ["clip_10", "clip_9"]
    assert opened.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_keyboard_sorts_too(opened: Browser) -> None:
    opened.evaluate("document.querySelectorAll('.clips thead button')[1].focus()")
    for kind in ("keyDown", "keyUp"):
        opened.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    assert opened.evaluate("document.querySelectorAll('.clips thead th')[1].getAttribute('aria-sort')") == "ascending"


def test_both_players_play_alone_and_together(opened: Browser) -> None:
    opened.evaluate("[window.a, window.b] = document.querySelectorAll('#clip-1 video')")
    opened.evaluate("window.play = document.querySelector('#clip-1 .play')")
    for name in "ab":
        opened.evaluate(f"{name}.play()")
        opened.wait(f"{name}.currentTime > 0.1")
        opened.evaluate(f"{name}.pause()")
    opened.evaluate("a.currentTime = b.currentTime = 0")
    opened.evaluate("play.click()")
    assert opened.wait("a.currentTime > 0.4 && b.currentTime > 0.4 && play.textContent") == "Pause both"
    assert abs(opened.evaluate("a.currentTime - b.currentTime")) < 0.2
    assert opened.evaluate("[a.muted, b.muted]") == [False, True]
    left = float(opened.evaluate("parseFloat(document.querySelector('#clip-1 .playhead').style.left)"))
    assert 20 < left < 100
    opened.evaluate("play.click()")
    opened.wait("a.paused && b.paused && a.currentTime === b.currentTime && play.textContent === 'Play both'")


def test_half_speed_is_half_speed_and_the_end_stops_both(opened: Browser) -> None:
    opened.evaluate("[window.a, window.b] = document.querySelectorAll('#clip-2 video')")
    opened.evaluate("[window.play, window.normal, window.half] = document.querySelectorAll('#clip-2 .controls button')")
    opened.evaluate("half.click()")
    assert opened.evaluate("[a.playbackRate, half.ariaPressed, normal.ariaPressed]") == [0.5, "true", "false"]
    opened.evaluate("normal.click()")
    opened.evaluate("a.currentTime = 1.3")
    opened.evaluate("play.click()")
    opened.wait("a.ended && b.paused && play.textContent === 'Play both'")
    opened.evaluate("play.click()")  # begins anew
    opened.wait("!a.paused && a.currentTime > 0 && a.currentTime < 1.2")
    opened.evaluate("play.click()")


def test_a_click_on_the_curves_sets_the_players(opened: Browser) -> None:
    opened.evaluate("""(() => {
        const plot = document.querySelector("#clip-3 .curves > div"), box = plot.getBoundingClientRect();
        const x = box.left + box.width * (+plot.dataset.left + plot.dataset.width / 2) / 100;
        plot.dispatchEvent(new MouseEvent("click", {clientX: x, bubbles: true}));
    })()""")
    opened.wait("[...document.querySelectorAll('#clip-3 video')].every(v => Math.abs(v.currentTime - 0.8) < 0.02)")


def test_a_narrow_window_scrolls_tables_but_not_the_page(opened: Browser) -> None:
    opened.screen(400, 800, dark=True)
    opened.wait("innerWidth === 400")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    opened.screen(1280, 900)
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
