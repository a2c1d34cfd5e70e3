"""`render`: any speech, a video or a picture; length, size and all pixels outside the blend are kept."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from command_line import files
from conftest import portrait, talker, voice
from numpy.typing import NDArray
from tiny_nets import tiny_lm2face
from torch import nn

from spear.audio import load_audio, write_wav
from spear.checkpoint import save_checkpoint
from spear.crop import crop_transform, inverse, to_crop
from spear.errors import SpearError, UnusableClip
from spear.face import follow_face
from spear.nets.a2lm import A2LMConfig, build_a2lm
from spear.nets.autoencoder import load_autoencoder
from spear.nets.lm2face import Lm2FaceConfig, build_lm2face
from spear.picture import Picture
from spear.pretrained.mfcc import Mfcc
from spear.stages import render as stage
from spear.stages.render import render
from spear.training import InterruptedTraining
from spear.video import Footage, Patch, VideoWriter, ping_pong_index

Frame = NDArray[np.uint8]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, tiny and with random weights, so that the mouth is surely changed."""
    folder, vae = tmp_path_factory.mktemp("models"), load_autoencoder()
    torch.manual_seed(0)
    a2lm_config = A2LMConfig("mfcc", Mfcc().settings, (4, 39), width=16, layers=1, heads=2, feedforward=16)
    lm2face_config = Lm2FaceConfig(vae.identity(), vae.latent_channels, width=8, blocks=1, references=2, bank=4)
    a2lm, lm2face = build_a2lm(a2lm_config), build_lm2face(lm2face_config, vae)
    nn.init.normal_(a2lm.decoder.outward.weight, std=0.01)
    nn.init.normal_(lm2face.spade_net.paint.outward.weight, std=0.3)
    save_checkpoint(folder / "a2lm.safetensors", "a2lm", asdict(a2lm_config), a2lm.state_dict())
    save_checkpoint(folder / "lm2face.safetensors", "lm2face", asdict(lm2face_config), lm2face.state_dict())
    return folder


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short video of the astronaut: 20 frames."""
    return talker(tmp_path_factory.mktemp("ref") / "ref.mp4", seed=1, seconds=0.8)


def _speech(path: Path, seconds: float) -> Path:
    write_wav(path, voice(5, 3.0)[0][: round(seconds * 16_000)])
    return path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """The frames as they are handed to the encoder, which itself changes every pixel a little."""
    frames: list[Frame] = []
    write = stage.VideoWriter.write

    def noted(self: VideoWriter, frame: Frame | Picture, patch: Patch | None = None) -> None:
        frames.append((frame.rgb() if isinstance(frame, Picture) else frame).copy())
        if patch is not None:
            frames[-1][patch.area] = patch.pixels
        write(self, frame, patch)

    monkeypatch.setattr(stage.VideoWriter, "write", noted)
    return frames


def _decoded(path: Path) -> Iterator[Frame]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


@pytest.mark.parametrize("seconds", [0.02, 0.5, 1.31])
def test_as_many_frames_as_the_speech_lasts(models: Path, portrait_png: Path, tmp_path: Path, seconds: float) -> None:
    # round(0.02 * 25) = 0, at least 1; round(0.5 * 25) = 12; round(1.31 * 25) = 33
    frames = {0.02: 1, 0.5: 12, 1.31: 33}[seconds]
    made = render(_speech(tmp_path / "a.wav", seconds), portrait_png, tmp_path / "out.mp4", models)
    assert made.frames == frames
    with av.open(str(tmp_path / "out.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.frames, video.average_rate, video.width, video.height) == (frames, 25, 320, 320)
        length = float(audio.duration * audio.time_base)
        assert abs(length - seconds) <= 0.04  # a frame
    assert sorted(p.name for p in tmp_path.glob("*out*")) == ["out.mp4", "out.mp4.json"]


def test_a_still_picture_speaks(models: Path, portrait_png: Path, tmp_path: Path, written: list[Frame]) -> None:
    speech = _speech(tmp_path / "a.wav", 1.0)
    seen: list[tuple[int, int, str]] = []
    made = render(speech, portrait_png, tmp_path / "out.mp4", models, progress=lambda *row: seen.append(row))
    assert (made.frames, made.width, made.height, made.notes) == (25, 320, 320, [])
    assert seen[-1] == (25, 25, "rendering")
    still = portrait()
    changed = np.abs(np.stack(written).astype(int) - still).max(-1)  # (F, H, W)
    assert changed.max((1, 2)).min() > 10  # in every frame
    rows, columns = np.nonzero(changed.max(0))
    assert rows.min() > 100  # below the eyes; the nose's tip is at (161, 126), the mouth at (162, 147)
    assert rows.max() < 220
    assert columns.min() > 100
    assert columns.max() < 225
    mouths = np.stack(written)[:, 135:165, 140:185].astype(int)
    assert np.abs(np.diff(mouths, axis=0)).mean() > 0.05  # it moves
    sound, spoken = load_audio(tmp_path / "out.mp4"), load_audio(speech)
    assert np.corrcoef(sound[: spoken.size], spoken[: sound.size])[0, 1] > 0.95


def test_a_ref_shorter_than_the_speech_runs_forward_and_backward(
    models: Path, ref: Path, tmp_path: Path, written: list[Frame]
) -> None:
    """And every pixel outside the blend is that of the ref's frame, bit for bit."""
    footage = Footage(ref)
    sources = list(footage.frames())
    made = render(_speech(tmp_path / "a.wav", 1.6), ref, tmp_path / "out.mp4", models)
    order = ping_pong_index(40, 20)
    assert made.frames == len(written) == 40
    assert order[18:22].tolist() == [18, 19, 18, 17]
    points, _ = follow_face(footage, "largest", "hold")
    transforms = crop_transform(points)
    y, x = np.mgrid[:320, :320]
    grid = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    for frame, i in zip(written, order, strict=True):
        in_crop = to_crop(grid, transforms[i]).reshape(320, 320, 2)
        across, down = in_crop[..., 0], in_crop[..., 1]
        outside = (across < -1) | (across > 256) | (down < 111) | (down > 256)
        assert np.array_equal(frame[outside], sources[i][outside])
        assert not np.array_equal(frame, sources[i])


def test_what_is_decoded_is_the_ref_but_for_the_mouth(models: Path, ref: Path, tmp_path: Path) -> None:
    """After H.264, too: no shift of colours or place."""
    render(_speech(tmp_path / "a.wav", 0.8), ref, tmp_path / "out.mp4", models)
    for made, source in zip(_decoded(tmp_path / "out.mp4"), _decoded(ref), strict=True):
        off = made[:90].astype(int) - source[:90]  # above the nose
        assert np.abs(off).mean() < 2
        assert abs(off.mean()) < 0.3


def test_odd_sizes_and_a_face_that_is_not_found_everywhere_are_told(models: Path, tmp_path: Path) -> None:
    picture = np.pad(portrait(), ((0, 1), (0, 3), (0, 0)), mode="edge")
    cv2.imwrite(str(tmp_path / "odd.png"), picture[..., ::-1])
    made = render(_speech(tmp_path / "a.wav", 0.2), tmp_path / "odd.png", tmp_path / "out.mp4", models)
    assert made.notes == ["the ref has an odd size; H.264 wants even ones, so the edge was repeated by one pixel"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (324, 322)


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_other_containers(models: Path, portrait_png: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    render(_speech(tmp_path / "a.wav", 0.2), portrait_png, out, models)
    assert sum(1 for _ in _decoded(out)) == 5


def test_two_runs_give_equal_pictures(models: Path, portrait_png: Path, tmp_path: Path, written: list[Frame]) -> None:
    speech = _speech(tmp_path / "a.wav", 0.4)
    for name in ("a", "b"):
        render(speech, portrait_png, tmp_path / f"{name}.mp4", models)
    assert len(written) == 20
    assert np.array_equal(written[:10], written[10:])


def test_only_what_is_needed_of_a_long_ref_is_read(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ref of 24 frames, speech of 3, of which the first 6 may be looked at (in earnest: 250)."""
    monkeypatch.setattr(stage, "_LEAST_ANALYSED", 6)
    long = talker(tmp_path / "long.mp4", seed=2, seconds=0.96)
    decoded = [0]

    class Counted(stage.Footage):
        def _decoded(self, *args: Any, **options: Any) -> Iterator[Any]:
            for frame in super()._decoded(*args, **options):
                decoded[0] += 1
                yield frame

    monkeypatch.setattr(stage, "Footage", Counted)
    assert render(_speech(tmp_path / "a.wav", 0.12), long, tmp_path / "out.mp4", models).frames == 3
    assert decoded[0] <= 3 * (6 + 2)  # found, references, painted; a frame is looked ahead


# --- from the cache, as a stream, in another precision


def test_the_second_render_of_a_ref_gives_the_same_pictures_and_looks_for_no_face(
    models: Path, ref: Path, tmp_path: Path, written: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes mostly, too, but x264 itself is not that exact: its own pictures differ from run to run."""
    speech = _speech(tmp_path / "a.wav", 1.2)
    render(speech, ref, tmp_path / "first.mp4", models)
    monkeypatch.setattr("spear.face.FaceTracker.__call__", None)
    render(speech, ref, tmp_path / "second.mp4", models)
    assert len(written) == 60
    assert np.array_equal(written[:30], written[30:])


def test_a_stream_is_a_fragmented_mp4_with_all_frames_and_the_sound(
    models: Path, ref: Path, tmp_path: Path, written: list[Frame]
) -> None:
    speech, stream = _speech(tmp_path / "a.wav", 0.9), io.BytesIO()
    made = render(speech, ref, stream, models)
    data = stream.getvalue()
    assert data.index(b"moov") < data.index(b"moof") < data.rindex(b"moof")
    assert data.count(b"moof") >= 22  # a fragment for each frame
    assert 0 < made.seconds["first frame"] < sum(v for k, v in made.seconds.items() if k != "first frame")
    (tmp_path / "stream.mp4").write_bytes(data)
    frames = list(_decoded(tmp_path / "stream.mp4"))
    assert made.frames == len(frames) == len(written) == 22
    assert np.abs(np.stack(frames).astype(int) - np.stack(written)).mean() < 3
    with av.open(str(tmp_path / "stream.mp4")) as container:
        assert container.metadata["comment"].startswith("Synthetic face")
        assert container.streams.video[0].average_rate == 25
    sound, spoken = load_audio(tmp_path / "stream.mp4"), load_audio(speech)
    assert np.corrcoef(sound[: spoken.size], spoken[: sound.size])[0, 1] > 0.95
    assert not list(tmp_path.glob(".*"))


def test_a_stream_can_be_read_while_it_is_made(models: Path, ref: Path, tmp_path: Path) -> None:
    """A picture is handed on a few frames after it was painted: sound goes with it, which comes in larger pieces."""
    handed: list[int] = []
    sizes: list[int] = []

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            handed.append(len(data))
            return len(data)

    render(_speech(tmp_path / "a.wav", 1.6), ref, Pipe(), models, progress=lambda *_: sizes.append(sum(handed)))
    shown = sizes[-40:]  # after each frame
    assert 0 < shown[5] < shown[10] < shown[20] < shown[39] <= sum(handed)


def test_precision_is_checked_before_any_work(models: Path, ref: Path, speech_wav: Path, tmp_path: Path) -> None:
    text = "--precision fp16 is not one of auto, fp32, bf16, int8"
    _fails(text, speech_wav, ref, tmp_path / "out.mp4", models, precision="fp16")


def test_int8_is_refused_for_the_paper_preset_before_the_speech_is_heard(
    models: Path, ref: Path, speech_wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.painter.has_int8", lambda _: True)
    monkeypatch.setattr(stage, "load_lm2face", lambda *_: tiny_lm2face(light=False))
    monkeypatch.setattr(stage, "load_encoder", lambda *_: pytest.fail("the speech was heard"))
    text = "--precision int8 is for models of the small preset; leave --precision out"
    _fails(text, speech_wav, ref, tmp_path / "out.mp4", models, precision="int8")
    assert files(tmp_path) == {}


def test_fp32_and_bf16_give_nearly_the_same_picture(
    models: Path, portrait_png: Path, tmp_path: Path, written: list[Frame]
) -> None:
    speech = _speech(tmp_path / "a.wav", 0.12)
    for precision in ("fp32", "bf16"):
        render(speech, portrait_png, tmp_path / "out.mp4", models, precision=precision)
    plain, half = np.stack(written[:3]).astype(int), np.stack(written[3:])
    assert 0 < np.abs(plain - half).mean() < 0.05  # grey levels


# --- on several threads


def test_an_error_in_the_middle_leaves_no_thread_and_no_file(
    models: Path, ref: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of painting, of decoding, and an interruption; the number of torch's threads is what it was."""
    speech, threads, cores = _speech(tmp_path / "a.wav", 1.6), set(threading.enumerate()), torch.get_num_threads()
    paint, calls = stage.Painter.paint, []

    def broken(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise SpearError("the fourth batch is bad")
        return paint(self, *args)

    def interrupted(done: int, _: int, what: str) -> None:
        if what == "rendering" and done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage.Painter, "paint", broken)
    with pytest.raises(SpearError, match="the fourth batch is bad"):
        render(speech, ref, tmp_path / "out.mp4", models)
    with pytest.raises(KeyboardInterrupt):
        render(speech, ref, tmp_path / "out.mp4", models, progress=interrupted)
    with pytest.raises(UnusableClip, match="shows no face"):
        render(speech, _grey(tmp_path / "grey.png"), tmp_path / "out.mp4", models)
    assert set(threading.enumerate()) <= threads
    assert torch.get_num_threads() == cores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "grey.png"]


def _grey(path: Path) -> Path:
    cv2.imwrite(str(path), np.full((64, 64, 3), 90, np.uint8))
    return path


def test_large_frames_are_painted_by_fewer_threads(
    models: Path, ref: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_MOST_HELD", 1)
    seen: set[int] = set()
    paint = stage.Painter.paint
    monkeypatch.setattr(stage.Painter, "paint", lambda self, *a: (seen.add(threading.get_ident()), paint(self, *a))[1])
    render(_speech(tmp_path / "a.wav", 0.8), ref, tmp_path / "out.mp4", models)
    assert len(seen) == 1


def test_contact_sheet(models: Path, portrait_png: Path, tmp_path: Path) -> None:
    render(_speech(tmp_path / "a.wav", 0.4), portrait_png, tmp_path / "out.mp4", models, sheet=tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (8 * 256, 4 * 256, 3)  # eight moments: crop, sketch, face, full frame (square)


# --- adaptation


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where adapted nets go in this test, and nowhere else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spear"


class _Steps:
    """Counts the steps of adaptation."""

    def __init__(self, stop: bool = False) -> None:
        self.done: list[tuple[int, int]] = []
        self.stop = stop

    def __call__(self, done: int, total: int, what: str) -> None:
        if what == "adapting to the ref":
            self.done.append((done, total))
            if self.stop and done == 1:
                signal.raise_signal(signal.SIGTERM)


def test_stage_2_may_be_trained_on_the_ref_first_and_only_once(
    models: Path, ref: Path, tmp_path: Path, cache: Path, written: list[Frame]
) -> None:
    speech, before = _speech(tmp_path / "a.wav", 0.2), files(models)
    steps = [_Steps() for _ in range(3)]
    made = [
        render(speech, ref, tmp_path / f"{i}.mp4", models, adapt=adapt, progress=steps[i])
        for i, adapt in enumerate((0, 2))
    ]
    kept = files(cache)
    made.append(render(speech, ref, tmp_path / "2.mp4", models, adapt=2, progress=steps[2]))
    assert [step.done for step in steps] == [[], [(1, 2), (2, 2)], []]
    assert sorted({Path(name).parts[0] for name in kept}) == ["adapted", "refs"]
    assert len(kept) == 2
    assert files(cache) == kept
    assert files(models) == before
    plain, adapted, again = np.stack(written).reshape(3, 5, 320, 320, 3)
    assert not np.array_equal(plain, adapted)
    assert np.array_equal(adapted, again)
    assert [one.notes for one in made] == [[]] * 3
    assert made[1].seconds["adaptation"] > made[2].seconds["adaptation"]


def test_a_ref_of_few_frames_is_not_adapted_to(models: Path, portrait_png: Path, tmp_path: Path, cache: Path) -> None:
    speech, steps = _speech(tmp_path / "a.wav", 0.2), _Steps()
    nine = talker(tmp_path / "nine.mp4", seed=1, seconds=0.36)
    made = render(speech, nine, tmp_path / "out.mp4", models, adapt=100, progress=steps)
    assert made.notes == ["the ref has only 9 frames, nothing to adapt to; rendered without --adapt"]
    made = render(speech, portrait_png, tmp_path / "out.mp4", models, adapt=100, progress=steps)
    assert len(made.notes) == 1
    assert made.notes[0].startswith("the ref has only 1 frame")
    assert steps.done == []
    assert not (cache / "adapted").exists()


def test_a_render_that_is_stopped_while_adapting_goes_on(models: Path, ref: Path, tmp_path: Path, cache: Path) -> None:
    """An earlier result stays; a signal in the first of two steps is obeyed after it."""
    speech, out, steps = _speech(tmp_path / "a.wav", 0.2), tmp_path / "out.mp4", _Steps()
    out.write_bytes(b"an earlier video")
    with pytest.raises(InterruptedTraining) as caught:
        render(speech, ref, out, models, adapt=2, progress=_Steps(stop=True))
    assert str(caught.value) == "stopped after step 1; run the same command again to go on"
    assert out.read_bytes() == b"an earlier video"
    assert render(speech, ref, out, models, adapt=2, progress=steps).frames == 5
    assert steps.done == [(2, 2)]
    assert [path.suffix for path in (cache / "adapted").iterdir()] == [".safetensors"]


# --- what is refused


def _fails(text: str, *args: Any, kind: type[Exception] = SpearError, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        render(*args, **options)
    assert str(caught.value) == text


def test_names_that_cannot_be_written(models: Path, ref: Path, speech_wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.avi"
    _fails(f"{out} does not end in .mp4, .mov, .mkv; give the video a name that does", speech_wav, ref, out, models)
    before = ref.read_bytes()
    _fails(f"{ref} is the audio or the ref itself; give another -o", speech_wav, ref, ref, models)
    link = tmp_path / "link.mp4"
    link.symlink_to(ref)
    _fails(f"{link} is the audio or the ref itself; give another -o", link, speech_wav, link, models)
    assert ref.read_bytes() == before


def test_models_that_do_not_fit(models: Path, ref: Path, speech_wav: Path, tmp_path: Path) -> None:
    out, wrong = tmp_path / "out.mp4", tmp_path / "wrong"
    wrong.mkdir()
    first = "run `spear train-a2lm` first, or give another folder with --models"
    _fails(f"no a2lm.safetensors in {wrong}; {first}", speech_wav, ref, out, wrong)
    path = wrong / "a2lm.safetensors"
    path.write_bytes((models / "lm2face.safetensors").read_bytes())
    kinds = "holds a checkpoint of kind 'lm2face', 'a2lm' is needed here; give that one"
    _fails(f"{path} {kinds}", speech_wav, ref, out, wrong)
    assert not out.exists()
    assert list(tmp_path.glob(".*")) == []  # no half-written file


def test_features_of_other_weights(models: Path, portrait_png: Path, speech_wav: Path, tmp_path: Path) -> None:
    config = A2LMConfig("mfcc", {"encoder": "mfcc", "version": 0}, (4, 39), width=16, layers=1, heads=2)
    save_checkpoint(tmp_path / "a2lm.safetensors", "a2lm", asdict(config), build_a2lm(config).state_dict())
    (tmp_path / "lm2face.safetensors").write_bytes((models / "lm2face.safetensors").read_bytes())
    text = (
        "the model was trained on mfcc features of other weights than these; give the same ones with --encoder-weights"
    )
    _fails(text, speech_wav, portrait_png, tmp_path / "out.mp4", tmp_path)


def test_an_earlier_result_survives_a_failure(models: Path, ref: Path, tmp_path: Path) -> None:
    out, empty = tmp_path / "out.mp4", tmp_path / "empty.wav"
    out.write_bytes(b"an earlier video")
    write_wav(empty, np.zeros(0, np.float32))
    with pytest.raises(UnusableClip):
        render(empty, ref, out, models)
    assert out.read_bytes() == b"an earlier video"


def test_the_blend_lies_inside_the_crop(models: Path, portrait_png: Path) -> None:
    """What the tests above take for granted of the geometry."""
    points, _ = follow_face(Footage(portrait_png), "largest", "hold")
    corners = to_crop(np.array([[0, 112], [255, 255]], np.float32), inverse(crop_transform(points)[0]))
    assert 85 < corners[0, 0] < corners[1, 0] < 240
    assert 110 < corners[0, 1] < corners[1, 1] < 210
