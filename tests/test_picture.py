"""Decoded frames: RGB of a part, where colour lies, and what may be copied."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from made_up import face
from numpy.typing import NDArray
from PIL import Image

from spear.crop import crop_transform, cut, paste, warp_crop
from spear.picture import MADE, Colours, Picture
from spear.video import Footage
from spear.video_writer import MARGIN, Patch, VideoWriter

WIDTH, HEIGHT = 192, 128


def scene(shift: int = 0, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Colours that change all over the picture, with edges."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin((x + shift) / 9), 128 + 90 * np.cos(y / 7), 60 + 120 * ((x // 24 + y // 24) % 2)]
    return np.stack(planes, -1).astype(np.uint8)


def encoded(
    path: Path, form: str = "yuv420p", params: str = "", count: int = 3, codec: str = "libx264",
    size: tuple[int, int] = (WIDTH, HEIGHT), turned: int = 0, **tags: int,
) -> Path:  # fmt: skip
    """Frames as x264 is told to encode them, with none of the code under test."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, form
        stream.options = {"crf": "4", "x264-params": params}
        if turned:
            stream.set_display_rotation(turned)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(scene(3 * n, *size), "rgb24").reformat(format=form)
            frame.color_range = tags.get("color_range", 1)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def first(path: Path) -> Picture:
    return next(Footage(path).pictures())


@pytest.mark.parametrize("siting", range(6))
def test_where_colour_lies_is_found_out(tmp_path: Path, siting: int) -> None:
    """At the left or in the middle; from 2 on at the top or bottom, which is rare and not copied."""
    colours = Footage(encoded(tmp_path / "a.mp4", params=f"chromaloc={siting}")).colours
    assert colours == (Colours(6, 6, 6, siting) if siting < 2 else None)


def test_what_has_no_tag_is_as_the_matrix(tmp_path: Path) -> None:
    assert Footage(encoded(tmp_path / "a.mp4", colorspace=1)).colours == Colours(1, 1, 1, 0)
    assert Footage(encoded(tmp_path / "b.mp4", colorspace=5, color_trc=4)).colours == Colours(5, 6, 4, 0)
    large = {"size": (1280, 720), "count": 1}
    assert Footage(encoded(tmp_path / "c.mp4", **large)).colours == Colours(1, 1, 1, 0)
    assert Footage(encoded(tmp_path / "d.mp4", colorspace=6, **large)).colours == Colours(6, 6, 6, 0)


@pytest.mark.parametrize(
    ("first_part", "then"),
    [
        ({"params": "interlaced=1"}, {}),
        ({}, {"params": "interlaced=1"}),
        ({}, {"size": (96, 64)}),
        ({"colorspace": 5}, {"colorspace": 1}),
        ({}, {"form": "yuv420p10le"}),
    ],
    ids=["interlaced first", "interlaced then", "another size", "another matrix", "more bits"],
)
def test_what_changes_in_mid_stream_is_converted(
    tmp_path: Path, first_part: dict[str, Any], then: dict[str, Any]
) -> None:
    parts = [encoded(tmp_path / f"{n}.h264", **how).read_bytes() for n, how in enumerate((first_part, then))]
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    footage = Footage(tmp_path / "a.h264")
    pictures, area = list(footage.pictures()), (slice(6, 60), slice(10, 80))
    same = [picture.colours is not None for picture in pictures]
    assert len(pictures) == 6
    assert same == [footage.colours is not None] * 3 + [False] * 3
    for copied, picture, rgb in zip(same, pictures, footage.frames(), strict=True):
        assert picture.shape == rgb.shape == (HEIGHT, WIDTH, 3)
        if not copied:
            assert np.array_equal(picture.part(area), rgb[area])
    out = tmp_path / "b.mp4"
    with VideoWriter(out, WIDTH, HEIGHT, crf=1, colours=footage.colours) as writer:
        for picture in pictures:
            writer.write(picture, Patch(area, picture.part(area)))
    for before, after in zip(footage.frames(), Footage(out).frames(), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 4


@pytest.mark.parametrize("matrix", [1, 5, 6, 2])
def test_a_part_is_what_the_whole_is_there(tmp_path: Path, matrix: int) -> None:
    picture, rng = first(encoded(tmp_path / "a.mp4", params="chromaloc=1", colorspace=matrix)), np.random.default_rng(0)
    assert picture.colours is not None
    whole = picture.rgb()
    areas = [(slice(0, HEIGHT), slice(0, WIDTH)), (slice(0, 1), slice(WIDTH - 1, WIDTH))]
    for _ in range(30):
        (top, bottom), (left, right) = (np.sort(rng.choice(size + 1, 2, replace=False)) for size in (HEIGHT, WIDTH))
        areas.append((slice(top, bottom), slice(left, right)))
    # swscale computes the last few pixels of a row in another way
    assert max(np.abs(picture.part(area).astype(int) - whole[area]).max() for area in areas) <= 1
    assert np.array_equal(picture.part(areas[0]), whole)


def test_a_part_of_colours_at_the_left_is_half_a_pixel_off_at_most(tmp_path: Path) -> None:
    picture = first(encoded(tmp_path / "a.mp4", params="chromaloc=0"))
    part, whole = picture.part((slice(10, 60), slice(20, 90))).astype(int), picture.rgb()[10:60, 20:90]
    assert 0 < np.abs(part - whole).mean() < 4


@pytest.mark.parametrize(
    ("form", "params", "tags"),
    [
        ("yuv444p", "", {}),
        ("yuv420p10le", "", {}),
        ("yuv420p", "", {"color_range": 2}),
        ("yuv420p", "", {"color_range": 2, "codec": "libvpx-vp9"}),
        ("yuv420p", "interlaced=1", {}),
        ("yuv420p", "", {"colorspace": 9}),
        ("yuv420p", "", {"turned": 90}),
        ("yuv420p", "", {"turned": 180}),
    ],
    ids=["4:4:4", "10 bits", "full range", "full range, VP9", "interlaced", "BT.2020", "on its side", "upside down"],
)
def test_what_is_not_as_usual_is_not_copied_but_shown(
    tmp_path: Path, form: str, params: str, tags: dict[str, Any]
) -> None:
    footage = Footage(encoded(tmp_path / "a.mp4", form, params, **tags))
    picture = next(footage.pictures())
    assert footage.colours is picture.colours is None
    assert np.array_equal(picture.part((slice(3, 50), slice(5, 60))), next(footage.frames())[3:50, 5:60])


def test_turned_odd_and_still_pictures_are_not_copied(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    still = first(tmp_path / "a.png")
    assert (still.colours, still.shape) == (None, (HEIGHT, WIDTH, 3))
    assert still.rgb() is still.rgb()
    assert np.array_equal(still.part((slice(0, 9), slice(4, 30))), scene()[:9, 4:30])
    with ThreadPoolExecutor(4) as pool:
        many = first(tmp_path / "a.png")
        assert len({id(rgb) for rgb in pool.map(lambda _: many.rgb(), range(20))}) == 1
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    turned = first(tmp_path / "a.jpg")
    assert turned.shape == turned.rgb().shape == (WIDTH, HEIGHT, 3)


# --- writing ----------------------------------------------------------------------------------------------------------


def written(path: Path, footage: Footage, patch: Patch | None = None) -> list[Picture]:
    """Without loss, so that values can be compared."""
    with VideoWriter(path, footage.width, footage.height, crf=0, colours=footage.colours) as writer:
        for picture in footage.pictures():
            writer.write(picture, patch)
    return list(Footage(path).pictures())


@pytest.mark.parametrize("siting", [0, 1])
@pytest.mark.parametrize("matrix", [1, 5])
def test_frames_of_footage_are_copied_to_the_bit(tmp_path: Path, siting: int, matrix: int) -> None:
    tags = {"colorspace": matrix, "color_primaries": 5, "color_trc": 4}
    footage = Footage(encoded(tmp_path / "a.mp4", params=f"chromaloc={siting}", **tags))
    assert footage.colours == Colours(matrix, 5, 4, siting)
    pictures = list(footage.pictures())
    for before, after in zip(pictures, written(tmp_path / "b.mp4", footage), strict=True):
        assert after.colours == before.colours
        assert all(np.array_equal(a, b) for a, b in zip(before.planes(), after.planes(), strict=True))


def test_a_patch_changes_what_it_covers_and_nothing_else(tmp_path: Path) -> None:
    footage = Footage(encoded(tmp_path / "a.mp4", count=1))
    picture, area = next(footage.pictures()), (slice(16, 64), slice(40, 120))
    pixels = picture.part(area).copy()
    pixels[MARGIN:-MARGIN, MARGIN:-MARGIN] = (200, 60, 90)
    (after,) = written(tmp_path / "b.mp4", footage, Patch(area, pixels))
    for cell, a, b in zip((1, 2, 2), picture.planes(), after.planes(), strict=True):
        changed = np.argwhere(a != b) * cell
        assert changed.min(0).tolist() >= [16 + MARGIN, 40 + MARGIN]
        assert changed.max(0).tolist() <= [64 - MARGIN, 120 - MARGIN]
    shown = after.part(area)[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(int)
    assert np.abs(shown[4:-4, 4:-4] - [200, 60, 90]).max() <= 2


@pytest.mark.parametrize("siting", [0, 1])
def test_a_patch_of_what_is_there_moves_no_colour(tmp_path: Path, siting: int) -> None:
    """There and back: where the colours of four pixels lay, there they are."""
    footage = Footage(encoded(tmp_path / "a.mp4", params=f"chromaloc={siting}", count=1))
    picture, area = next(footage.pictures()), (slice(0, HEIGHT), slice(0, WIDTH))
    (after,) = written(tmp_path / "b.mp4", footage, Patch(area, picture.part(area)))
    for a, b in zip(picture.planes()[1:], after.planes()[1:], strict=True):
        left, here, right = (np.abs(a[:, 2:-2].astype(int) - np.roll(b, k, 1)[:, 2:-2]).mean() for k in (-1, 0, 1))
        assert here < 2
        assert left == pytest.approx(right, rel=0.05)  # a quarter of a pixel would make them differ by a half


def test_a_patch_reaches_the_edges_of_the_frame_and_may_be_tiny(tmp_path: Path) -> None:
    footage = Footage(encoded(tmp_path / "a.mp4", count=1))
    picture = next(footage.pictures())
    for rows, columns in ((slice(0, 40), slice(0, 60)), (slice(88, 128), slice(132, 192))):
        patch = Patch((rows, columns), np.full((40, 60, 3), (200, 60, 90), np.uint8))
        (after,) = written(tmp_path / "b.mp4", footage, patch)
        corner = after.rgb()[0 if rows.start == 0 else -1, 0 if columns.start == 0 else -1].astype(int)
        assert np.abs(corner - [200, 60, 90]).max() <= 2
    for rows, columns in ((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(100, 102)), (slice(0, 0), slice(0, 0))):
        size = rows.stop - rows.start
        (after,) = written(tmp_path / "b.mp4", footage, Patch((rows, columns), np.zeros((size, size, 3), np.uint8)))
        assert all(np.array_equal(a, b) for a, b in zip(picture.planes(), after.planes(), strict=True))


def test_pictures_of_other_colours_are_converted(tmp_path: Path) -> None:
    """As where a stream changes its tags, or a writer was not told of any."""
    footage = Footage(encoded(tmp_path / "a.mp4", colorspace=5))
    for colours in (None, Colours(1, 1, 1, 1)):
        with VideoWriter(tmp_path / "b.mp4", WIDTH, HEIGHT, crf=1, colours=colours) as writer:
            for picture in footage.pictures():
                writer.write(picture)
        again = Footage(tmp_path / "b.mp4")
        assert again.colours == MADE
        for before, after in zip(footage.frames(), again.frames(), strict=True):
            assert np.abs(before.astype(int) - after).mean() < 4


# --- the face ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60.0, 150.0, 300.0], ids=["enlarged", "as it is", "smoothed"])
@pytest.mark.parametrize("at", [(350, 300), (0, 599), (699, 0)], ids=["middle", "bottom left", "top right"])
def test_a_face_is_cut_and_pasted_as_in_the_whole_frame(tmp_path: Path, size: float, at: tuple[int, int]) -> None:
    picture = first(encoded(tmp_path / "a.mp4", params="chromaloc=1", count=1, size=(700, 600)))
    a, b, x, y = crop_transform(face(10, at=at, size=size)[None])[0]
    transform = np.array([a - 0.1 * b, b + 0.1 * a, x - 0.1 * y, y + 0.1 * x])  # turned a little
    one, frame = cut(picture, transform), picture.rgb()
    crop = warp_crop(frame, transform)
    assert np.abs(one.crop.astype(int) - crop).max() <= 2  # OpenCV counts places in parts of a pixel
    mask, new = np.zeros((256, 256), np.float32), np.full((256, 256, 3), 250, np.uint8)
    mask[130:240, 20:236] = 1
    patch, shown = one.pasted(new, mask), frame.copy()
    shown[patch.area] = patch.pixels
    expected = paste(frame, new, mask, transform)
    assert np.abs(shown.astype(int) - expected).mean() < 0.1
    for part, whole in zip(patch.area, frame.shape[:2], strict=True):
        assert part.start % 2 == 0
        assert part.stop % 2 == 0
        assert 0 <= part.start < part.stop <= whole
    same = shown == frame
    rows, columns = patch.area
    inside = [MARGIN if part.start else 0 for part in patch.area]
    assert same[rows, columns][: inside[0]].all()
    assert same[rows, columns][:, : inside[1]].all()
