"""SyncNet: the weight file's names and shapes, MFCC and the protocol restated, offsets found where they were put."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.pretrained import syncnet
from spear.pretrained.syncnet import WEIGHTS_NAME, SyncNet, find_syncnet_weights, load_syncnet, mfcc13, sync_errors

URL = "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model"
CONVOLUTIONS = {
    "netcnnaud.0": (64, 1, 3, 3), "netcnnaud.4": (192, 64, 3, 3), "netcnnaud.8": (384, 192, 3, 3),
    "netcnnaud.11": (256, 384, 3, 3), "netcnnaud.14": (256, 256, 3, 3), "netcnnaud.18": (512, 256, 5, 4),
    "netcnnlip.0": (96, 3, 5, 7, 7), "netcnnlip.4": (256, 96, 1, 5, 5), "netcnnlip.8": (256, 256, 1, 3, 3),
    "netcnnlip.11": (256, 256, 1, 3, 3), "netcnnlip.14": (256, 256, 1, 3, 3), "netcnnlip.18": (512, 256, 1, 6, 6),
    "netfcaud.0": (512, 512), "netfclip.0": (512, 512),
}  # fmt: skip
"""Each is followed by its batch norm, the next number."""
LAST = {"netfcaud.3": (1024, 512), "netfclip.3": (1024, 512)}

Floats = NDArray[np.float32]


def listed_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the public file, batch counters included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in {**CONVOLUTIONS, **LAST}.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, shape in CONVOLUTIONS.items():
        part, place = name.split(".")
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{part}.{int(place) + 1}.{kind}"] = shape[:1]
        shapes[f"{part}.{int(place) + 1}.num_batches_tracked"] = ()
    return shapes


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the public one, without the counters that old versions of torch did not write; seeded numbers."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in listed_shapes().items():
        if name.endswith("num_batches_tracked"):
            continue
        numbers = torch.randn(shape, generator=random)
        if name.endswith("running_var"):
            numbers = numbers.abs() + 0.5
        elif len(shape) > 1:
            numbers *= math.sqrt(2 / math.prod(shape[1:]))
        state[name] = numbers
    path = tmp_path_factory.mktemp("weights") / WEIGHTS_NAME
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def net(weights: Path) -> SyncNet:
    return load_syncnet(weights)


def noise(frames: int) -> Floats:
    return (0.1 * np.random.default_rng(0).normal(size=640 * frames)).astype(np.float32)


def test_names_and_shapes() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in SyncNet().state_dict().items()} == listed_shapes()


def test_frozen_and_a_file_with_counters_loads_too(net: SyncNet, tmp_path: Path) -> None:
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    torch.save(net.state_dict(), tmp_path / "w.model")
    load_syncnet(tmp_path / "w.model")


def restated_mfcc(samples: Floats) -> NDArray[np.float64]:
    """The textbook with the settings that SyncNet was trained on, hop by hop and band by band: (hops, 13)."""
    pcm = np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767)
    emphasised = np.array([pcm[0], *(pcm[n] - 0.97 * pcm[n - 1] for n in range(1, len(pcm)))])
    highest = 2595 * math.log10(1 + 8000 / 700)
    corner = [math.floor(513 * 700 * (10 ** (highest * k / 27 / 2595) - 1) / 16_000) for k in range(28)]
    rows = []
    for begin in range(0, len(pcm) - 400 + 1, 160):
        power = np.abs(np.fft.fft(emphasised[begin : begin + 400], 512)[:257]) ** 2 / 512
        logs = []
        for low, middle, high in zip(corner, corner[1:], corner[2:], strict=False):
            band = sum(power[i] * (i - low) / (middle - low) for i in range(low, middle))
            band += sum(power[i] * (high - i) / (high - middle) for i in range(middle, high))
            logs.append(math.log(band or np.finfo(float).eps))
        row = [math.log(power.sum() or np.finfo(float).eps)]
        for k in range(1, 13):
            cosines = sum(log * math.cos(math.pi * k * (2 * band + 1) / 52) for band, log in enumerate(logs))
            row.append(math.sqrt(2 / 26) * cosines * (1 + 11 * math.sin(math.pi * k / 22)))
        rows.append(row)
    return np.array(rows)


def test_mfcc_as_restated() -> None:
    samples = noise(5)
    samples[:900] = 0  # digital silence gives finite numbers
    samples[1500] = 3.0  # clipped at 16 bits
    expected = restated_mfcc(samples)
    hops = len(expected)
    assert hops == 18  # (3200 - 400) / 160 + 1
    np.testing.assert_allclose(mfcc13(samples, 0, hops), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(mfcc13(samples, 7, 9), expected[7:16], rtol=1e-4, atol=1e-3)


def restated_protocol(net: SyncNet, faces: NDArray[np.uint8], samples: Floats) -> tuple[float, float, int]:
    """The public scripts' way: every window by itself, all embeddings at once, zeros beyond the ends of the sound."""
    windows = min(len(faces), len(samples) // 640) - 5
    mfcc = restated_mfcc(samples).astype(np.float32)
    pictures = torch.stack([torch.from_numpy(faces[i : i + 5, :, :, ::-1].copy()).float() for i in range(windows)])
    hops = torch.stack([torch.from_numpy(mfcc[4 * i : 4 * i + 20].T.copy()) for i in range(windows)])
    with torch.no_grad():
        lips = net.netfclip(net.netcnnlip(pictures.permute(0, 4, 1, 2, 3)).flatten(1))
        speech = net.netfcaud(net.netcnnaud(hops[:, None]).flatten(1))
    padded = torch.nn.functional.pad(speech, (0, 0, 15, 15))
    means = torch.stack([(lips - padded[k : k + windows]).norm(dim=1).mean() for k in range(31)])
    return means.min().item(), (means.median() - means.min()).item(), 15 - int(means.argmin())


def test_the_protocol_as_restated(net: SyncNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncnet, "_BATCH", 3)
    rng = np.random.default_rng(0)
    faces = rng.integers(0, (256, 128, 64), (9, 28, 28, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    samples = noise(10)
    found = sync_errors(net, iter(faces), samples)
    distance, confidence, offset = restated_protocol(net, faces, samples)
    assert found.distance == pytest.approx(distance, rel=1e-4)
    assert found.confidence == pytest.approx(confidence, rel=1e-3)
    assert found.offset == offset
    # a sound that is shorter cuts the pictures: 8 frames, 3 windows
    assert sync_errors(net, iter(faces), samples[: 640 * 8 + 639]) == sync_errors(net, iter(faces[:8]), samples)


class Same:
    """A toy: whatever it sees is (3, 4)."""

    def __init__(self) -> None:
        self.faces, self.hops = [], []

    def embed_faces(self, frames: NDArray[np.uint8]) -> Floats:
        self.faces.append(len(frames))
        return np.tile(np.float32([3, 4]), (len(frames) - 4, 1))

    def embed_speech(self, mfcc: Floats) -> Floats:
        self.hops.append(len(mfcc))
        return np.tile(np.float32([3, 4]), ((len(mfcc) - 16) // 4, 1))


def blank(frames: int) -> NDArray[np.uint8]:
    return np.broadcast_to(np.zeros(3, np.uint8), (frames, 224, 224, 3))


def test_distance_and_confidence_by_hand() -> None:
    # 15 frames are 10 windows (11 but the last). At offset k, |k| of the 10 meet the zeros beyond the end, 5 away: the
    # means are |k| / 2, from |k| = 10 on 5. Sorted: 0, .5, .5, 1, 1 .. 4.5, 4.5, 5 twelve times; the 16th of 31 is 4
    found = sync_errors(Same(), iter(blank(15)), noise(15))
    assert (found.distance, found.confidence, found.offset) == (0, 4, 0)


def test_in_batches_and_flat() -> None:
    toy = Same()
    found = sync_errors(toy, iter(blank(58)), noise(60))
    assert toy.faces == [24, 24, 17]  # 20 + 20 + 13 windows = 58 - 5
    assert toy.hops == [96, 96, 68]
    # 53 windows: means 5 |k| / 53; the 16th smallest is that of |k| = 8
    assert (found.distance, found.offset) == (0, 0)
    assert found.confidence == pytest.approx(5 * 8 / 53)


class LoudAsBright:
    """A toy: the log of how loud the middle of the five frames is, and of how bright it is."""

    def embed_faces(self, frames: NDArray[np.uint8]) -> Floats:
        return 2 * np.log(frames[2:-2, :1, 0, 0].astype(np.float32))

    def embed_speech(self, mfcc: Floats) -> Floats:
        return mfcc[9:-7:4, :1] - self.of_one  # a window that lies wholly in the middle frame

    of_one = 2 * math.log(0.5 / 255) + float(mfcc13(np.sin(np.arange(640) * np.pi / 8).astype(np.float32), 1, 1)[0, 0])


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_offset_is_found_where_it_was_put(late: int) -> None:
    bright = np.random.default_rng(0).choice([20, 60, 250], 90)
    tone = np.sin(np.arange(640 * 90) * np.pi / 8)  # 1 kHz: a frame holds whole periods
    loud = np.roll(bright, late) / 255 * 0.5  # loud[f + late] = bright[f]: the sound is late
    samples = (tone * loud.repeat(640)).astype(np.float32)
    faces = np.broadcast_to(bright.astype(np.uint8)[:, None, None, None], (90, 224, 224, 3))
    found = sync_errors(LoudAsBright(), iter(faces[10:80]), samples[6400 : 640 * 80])
    assert found.offset == -late
    # the two are equal to rounding, but that |late| of 65 windows meet the zeros beyond the end, 6 to 11 away (2 log 20
    # to 2 log 250)
    assert abs(late) / 65 * 5.9 <= found.distance <= abs(late) / 65 * 11.1 + 0.005
    assert found.confidence > 0.5


def test_a_clip_without_a_window() -> None:
    for frames in (0, 5):
        found = sync_errors(Same(), iter(blank(frames)), noise(9))
        assert math.isnan(found.distance)
        assert math.isnan(found.confidence)
        assert found.offset == 0
    assert sync_errors(Same(), iter(blank(6)), noise(9)).distance == 0


def test_faces_of_another_size_are_refused(net: SyncNet) -> None:
    with pytest.raises(ValueError, match=r"faces must be \(F, 224, 224, 3\)"):
        sync_errors(net, iter(np.zeros((7, 96, 96, 3), np.uint8)), noise(7))


def test_weights_are_found_in_torch_hubs_folder(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / WEIGHTS_NAME
    with pytest.raises(SpearError) as error:
        find_syncnet_weights()
    assert str(error.value) == (
        f"no SyncNet weights at {place}, LSE-D and LSE-C need them; download {URL} and put it there, "
        "or give it with `--syncnet-weights FILE`"
    )
    place.parent.mkdir()
    place.symlink_to(weights)
    assert find_syncnet_weights() == place
    assert find_syncnet_weights(weights) == weights


class _Spy:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code in the weight file ran')",))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.model"
    advice = f"; give {WEIGHTS_NAME} of {URL} with `--syncnet-weights FILE`"
    path.write_bytes(b"no weights")
    with pytest.raises(SpearError, match="is not a readable weight file") as error:
        load_syncnet(path)
    assert "\n" not in str(error.value)
    torch.save({"netcnnaud.0.weight": _Spy()}, path)
    with pytest.raises(SpearError, match="is not a readable weight file"):
        load_syncnet(path)
    torch.save({"netcnnaud.0.weight": torch.zeros(2)}, path)
    with pytest.raises(SpearError) as error:
        load_syncnet(path)
    assert str(error.value) == f"{path} holds other weights than SyncNet{advice}"
    torch.save([1], path)
    with pytest.raises(SpearError) as error:
        load_syncnet(path)
    assert str(error.value) == f"{path} holds no state dict{advice}"
