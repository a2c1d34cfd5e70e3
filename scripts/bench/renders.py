"""How good what `spear render` writes is: python scripts/bench/renders.py FOOTAGE --speech SPEECH --out work/renders.

The real command line renders the videos of FOOTAGE (manifest.csv beside it names the speakers) with their own sound,
with that of the next other speaker, in silence and in a room's noise, and one of them with every file of SPEECH. What
is in --out is not rendered again: give another --out for other models or options. Faces are detected in the files anew.

r, lag: lip opening with that of the sound's true video, best lag of -6..6 frames, + where the render is late;
amplitude: its deviation over the true one's. r own: with the ref's old mouth; r truths: of the two true mouths.
psnr, ssim: to the true frames, full, in the crop of 256 px, in the blended hull.
outside: difference in grey levels, farther than 32 px from the mask, of the render to the ref encoded again: mean,
largest, mean of the first frame; error: of the render to the ref itself; encoder: of the ref encoded again to itself.
`spear.crop.paste` leaves these pixels as they are (tests/test_crop.py), but x264 spends its bits in other ways
everywhere once a mouth differs: where nothing was painted, error is hardly more than encoder, outside no bar.
identity: distance of eight faces (dlib; below .6 it is one person) to the ref's of the moment; own: of those in turn
(takes an --identity-python with dlib-bin, face_recognition_models and numpy<2 from PyPI; - without it).
silence, room: opening after .3 s, % of the way from the ref's most closed to its most open mouth.
r energy: lip opening with log energy of the clean speech, best lag; r clean: with the mouth of the clean file;
deviation: standard deviation of the opening, % of the face width; own: of the ref's mouth.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import butter, lfilter, resample_poly, sosfiltfilt

from spear.audio import fit_to_frames, load_audio, write_wav
from spear.clip import CROP, FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.crop import crop_transform, paste, to_crop, warp_crop
from spear.errors import SpearError
from spear.face import follow_face
from spear.files import write_json, write_picture
from spear.nets.blending import blend_mask
from spear.points import Array, lip_opening
from spear.scores.image import psnr, ssim
from spear.scores.landmark import best_lag, opening_amplitude
from spear.scores.split import hull_psnr
from spear.video import Footage, Frame, VideoWriter, ping_pong_index

PACKAGED = Path(__file__).parents[2] / "spear" / "weights"
SPEECH_REF = "grid_sbwe5n"
FAR = 32  # px: H.264 predicts blocks of 16 px from their neighbours, so a new mouth is felt beyond the mask's edge
MOMENTS = np.linspace(0, 1, 8)
SETTLED = round(0.3 * FPS)  # frames after which a mouth should be closed in silence
IDENTITY = """
import json, sys
from importlib.util import find_spec
import dlib, numpy
models = find_spec("face_recognition_models").submodule_search_locations[0] + "/models/"
find = dlib.get_frontal_face_detector()
place = dlib.shape_predictor(models + "shape_predictor_5_face_landmarks.dat")  # eyes and nose: no mouth in it
embed = dlib.face_recognition_model_v1(models + "dlib_face_recognition_resnet_model_v1.dat")
def numbers(crop):
    faces = find(crop, 1)
    return list(embed.compute_face_descriptor(crop, place(crop, faces[0]))) if faces else [float("nan")] * 128
print(json.dumps([numbers(crop) for crop in numpy.load(sys.argv[1])]))
"""


@dataclass(frozen=True)
class Row:
    """One render and its figures; NaN where one is not defined or not measured."""

    part: str
    ref: str
    audio: str
    values: dict[str, float]


@dataclass(frozen=True)
class Track:
    """The face in a video: points (F, 131, 2) px, interpolated where it is not found; lip opening (F,), NaN there."""

    points: Array
    opening: NDArray[np.float64]

    def shown(self, count: int) -> Track:
        """As `render` shows it for `count` frames: forward and backward."""
        order = ping_pong_index(count, len(self.points))
        return Track(self.points[order], self.opening[order])


@cache
def track(video: Path) -> Track:
    """Detect the face in every frame at 25 fps, as `render` does."""
    points, missing = follow_face(Footage(video), "largest", "hold")
    return Track(points, np.where(np.isin(np.arange(len(points)), missing), math.nan, lip_opening(points)))


@dataclass(frozen=True)
class Bench:
    """Where videos and sheets go, what every `spear render` is given, and what computes identities."""

    out: Path
    options: list[str]
    sheets: Path | None
    identity_python: Path | None

    def render(self, part: str, audio: Path, ref: Path) -> Path:
        """The rendered video, made unless it is there. Raises SpearError with the last line of a failed command."""
        video = self.out / part / f"{ref.stem}.by.{audio.stem}.mp4"
        if not video.exists():
            arguments = ["--audio", str(audio), "--ref", str(ref), "-o", str(video), *self.options]
            said([sys.executable, "-m", "spear_cli", "render", *arguments])
        if self.sheets is not None:
            wanted = (MOMENTS * (len(track(video).points) - 1)).astype(int)
            frames = [frame for i, frame in enumerate(Footage(video).frames()) if i in wanted]
            small = [cv2.resize(x, None, None, CROP / len(x), CROP / len(x), cv2.INTER_AREA) for x in frames]
            write_picture(self.sheets / part / f"{video.stem}.png", np.hstack(small))
        return video

    def identity(self, pairs: list[tuple[Frame, Frame]]) -> dict[str, float]:
        """Mean distance of rendered faces to the true ones at the same moments, and of those to the next of them."""
        if self.identity_python is None:
            return {"identity": math.nan, "identity own": math.nan}
        np.save(self.out / "crops.npy", np.concatenate([*zip(*pairs, strict=True)]))
        answer = said([str(self.identity_python), "-c", IDENTITY, str(self.out / "crops.npy")])
        faces, own = np.split(np.array(json.loads(answer)), 2)
        steps = {"identity": faces - own, "identity own": np.diff(own, axis=0)}
        return {name: average(np.linalg.norm(step, axis=1)) for name, step in steps.items()}


def said(command: list[str]) -> str:
    """What a program prints. Raises SpearError with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SpearError(f"{' '.join(command)}: {(done.stderr.splitlines() or ['?'])[-1]}")
    return done.stdout


def average(values: list[float] | NDArray[Any]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def lips(one: Track, other: Track) -> tuple[float, int, float]:
    """Best r, its lag and the amplitude of the lip openings over the frames that both have."""
    count = min(len(one.opening), len(other.opening))
    a, b = one.opening[:count], other.opening[:count]
    found = np.isfinite(a) & np.isfinite(b)
    return *best_lag(a, b, found), opening_amplitude(a[found], b[found])


def pixels(bench: Bench, video: Path, ref: Path, own_sound: bool) -> dict[str, float]:
    """The pictures against the ref's: far from the mouth, identity, and with its own sound also PSNR and SSIM."""
    footage, seen, own, again = Footage(ref), track(video), track(ref), video.with_suffix(".ref.mp4")
    count = len(seen.points)
    how: dict[str, Any] = {"pixel_aspect": footage.pixel_aspect, "colours": footage.colours}
    with VideoWriter(again, footage.width, footage.height, **how) as writer:
        for picture in footage.ping_pong(count):
            writer.write(picture)
    transforms = crop_transform(own.points)[ping_pong_index(count, len(own.points))]
    # the points that drove the render are not in its file: those that are found in it stand for them
    faces = zip(to_crop(own.shown(count).points, transforms), to_crop(seen.points, transforms), strict=True)
    trues = (picture.rgb() for picture in footage.ping_pong(count))
    videos = zip(Footage(video).frames(), Footage(again).frames(), trues, strict=True)
    rows: list[dict[str, float]] = []
    crops: list[tuple[Frame, Frame]] = []
    for number, (frames, transform, points) in enumerate(zip(videos, transforms, faces, strict=True)):
        shown, plain, true = (frame[: footage.height, : footage.width] for frame in frames)  # not the even size's edge
        mask = blend_mask(list(points))
        crops.append((warp_crop(shown, transform), warp_crop(true, transform)))
        changed = paste(np.zeros_like(true), np.full_like(crops[-1][0], 255), mask, transform)
        rows.append(far_away(shown, plain, true, changed))
        if own_sound and number < len(own.points):
            rows[-1] |= {"psnr full": psnr(shown, true), "psnr crop": psnr(*crops[-1])}
            rows[-1] |= {"ssim full": ssim(shown, true), "ssim crop": ssim(*crops[-1])}
            rows[-1] |= {"psnr hull": hull_psnr(*crops[-1], mask)}
    figures = {name: average([row.get(name, math.nan) for row in rows]) for name in rows[0]}
    figures |= {"outside max": max(row["outside max"] for row in rows), "outside first": rows[0]["outside"]}
    return figures | bench.identity([crops[i] for i in (MOMENTS * (count - 1)).astype(int)])


def far_away(shown: Frame, plain: Frame, true: Frame, changed: Frame) -> dict[str, float]:
    """Differences far from where `changed` is not black, between the render, the ref encoded again, and the ref."""
    far = cv2.distanceTransform((changed[..., 0] == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > FAR
    apart, error, encoder = (cv2.absdiff(*pair)[far] for pair in ((shown, plain), (shown, true), (plain, true)))
    means = {"outside": average(apart), "error": average(error), "encoder": average(encoder)}
    return means | {"outside max": float(apart.max(initial=0))}


def speaking(bench: Bench, clip: Path, sound: Path) -> Row:
    """A clip with its own sound, or dubbed with that of another clip."""
    part = "self" if sound == clip else "dub"
    video = bench.render(part, sound, clip)
    seen = track(video)
    values = dict(zip(("r", "lag", "amplitude"), lips(seen, track(sound)), strict=True))
    if sound != clip:
        own = track(clip).shown(len(seen.points))
        values |= {"r own": lips(seen, own)[0], "r truths": lips(own, track(sound))[0]}
    return Row(part, clip.stem, sound.stem, values | pixels(bench, video, clip, sound == clip))


def quiet(bench: Bench, clip: Path, sound: str) -> Row:
    """A clip with two seconds in which nobody speaks: digital silence, or the noise of a room at -60 dB full scale."""
    hiss = lfilter([1], [1, -0.9], np.random.default_rng(0).normal(size=2 * SAMPLE_RATE))  # more low than high
    level, audio = {"silence": 0, "room": 10 ** (-60 / 20)}[sound], bench.out / f"{sound}.wav"
    write_wav(audio, np.asarray(hiss / hiss.std() * level, np.float32))
    opening, own = track(bench.render(sound, audio, clip)).opening[SETTLED:], track(clip).opening
    share = 100 * (opening - np.nanmin(own)) / (np.nanmax(own) - np.nanmin(own))
    return Row(sound, clip.stem, sound, {"median": float(np.nanmedian(share)), "largest": float(np.nanmax(share))})


def speech(bench: Bench, ref: Path, audio: Path, clean: Path) -> Row:
    """One ref with a file of speech; clean: the file that `audio` is a telephone's or a noisy version of, or itself."""
    seen = track(bench.render("speech", audio, ref))
    power = np.square(fit_to_frames(load_audio(clean), len(seen.points)).reshape(-1, SAMPLES_PER_FRAME)).mean(1)
    energy = np.log10(np.maximum(power, 1e-6 * power.max()))  # 60 dB below the loudest is as good as silent
    r, lag = best_lag(seen.opening, energy, np.isfinite(seen.opening))
    same = math.nan if audio == clean else lips(seen, track(bench.render("speech", clean, ref)))[0]
    moved, own = (100 * float(np.nanstd(x.opening)) for x in (seen, track(ref)))
    values = {"r energy": r, "lag": lag, "r clean": same, "deviation": moved, "deviation own": own}
    return Row("speech", ref.stem, audio.stem, values)


def worse_copies(audio: Path, out: Path) -> list[Path]:
    """Speech as a telephone hands it on (300 to 3400 Hz, 8 kHz), and with white noise 10 dB below it."""
    samples = load_audio(audio)
    telephone, noisy = (out / f"{audio.stem}.{kind}.wav" for kind in ("telephone", "noisy"))
    band = butter(6, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    narrow = np.clip(resample_poly(sosfiltfilt(band, samples), 1, 2), -1, 1)
    wavfile.write(telephone, SAMPLE_RATE // 2, (narrow * 32767).astype(np.int16))
    noise = np.random.default_rng(0).normal(size=samples.size) * samples.std() * 10 ** (-10 / 20)
    write_wav(noisy, np.asarray(samples + noise, np.float32))
    return [telephone, noisy]


def jobs(bench: Bench, footage: Path, spoken: Path | None, only: list[str]) -> Iterator[Callable[[], Row]]:
    """What there is to do, a row each; `only` chooses refs, the sound for dubbing comes from all."""
    manifest = csv.DictReader((footage.parent / "manifest.csv").read_text(encoding="utf-8").splitlines())
    speakers = {Path(footage.parent, row["file"]): row["speaker"] for row in manifest}
    clips = sorted(path for path in speakers if path.parent == footage)
    for place, clip in enumerate(clips):
        if not only or any(part in clip.stem for part in only):
            others = [x for x in clips[place + 1 :] + clips[:place] if speakers[x] != speakers[clip]]
            yield from (partial(speaking, bench, clip, sound) for sound in (clip, *others[:1]))
            yield from (partial(quiet, bench, clip, sound) for sound in ("silence", "room"))
    ref = next((clip for clip in clips if clip.stem == SPEECH_REF), clips[0])
    files = [] if spoken is None else sorted(path for path in spoken.iterdir() if path.is_file())
    worse = [(copy, file) for file in files[:1] for copy in worse_copies(file, bench.out)]
    yield from (partial(speech, bench, ref, *pair) for pair in [*zip(files, files, strict=True), *worse])


def table(rows: list[Row]) -> str:
    """The table of one part, with the mean of every column; `-` where there is no figure."""
    names = list(rows[0].values)
    mean = Row("", "mean", "", {name: average([row.values[name] for row in rows]) for name in names})
    cells = [(rows[0].part, "sound", *names)]
    for x in (*rows, mean):
        cells.append((x.ref, x.audio, *(f"{x.values[name]:.3f}".replace("nan", "-") for name in names)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def main(
    footage: Annotated[Path, typer.Argument(help="Folder of videos, manifest.csv beside it.")],
    spoken: Annotated[Path | None, typer.Option("--speech", help="Folder of speech without a face.")] = None,
    out: Annotated[Path, typer.Option(help="Where the rendered videos stay.")] = Path("work/renders"),
    models: Annotated[Path, typer.Option(help="Folder of trained models.")] = PACKAGED,
    adapt: Annotated[int | None, typer.Option(help="Passed on to `spear render`.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only refs whose name contains this; may be repeated.")] = None,
    sheets: Annotated[Path | None, typer.Option(help="A folder: eight frames of every render as a PNG.")] = None,
    identity_python: Annotated[Path | None, typer.Option(help="A Python that has dlib and its models.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
) -> None:
    """Render what is missing, measure, print tables; exit code 1 where a render failed."""
    out.mkdir(parents=True, exist_ok=True)
    options = ["--models", str(models)] + ([] if adapt is None else ["--adapt", str(adapt)])
    rows, failed = [], []
    for job in jobs(Bench(out, options, sheets, identity_python), footage.resolve(), spoken, only or []):
        try:
            rows.append(job())
            print(f"{rows[-1].part}: {rows[-1].ref} by {rows[-1].audio}", flush=True)
        except SpearError as error:
            failed.append(str(error))
            print(f"failed: {error}", flush=True)
    print(__doc__)
    for part in dict.fromkeys(row.part for row in rows):
        print(table([row for row in rows if row.part == part]) + "\n")
    print(f"{len(rows)} measured, {len(failed)} failed")
    if json_file is not None:
        known = [Row(x.part, x.ref, x.audio, {k: v for k, v in x.values.items() if not math.isnan(v)}) for x in rows]
        write_json(json_file, {"rows": [asdict(row) for row in known], "failed": failed})
    raise typer.Exit(int(bool(failed)))


if __name__ == "__main__":
    typer.run(main)
