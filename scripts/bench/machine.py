"""What this machine can do at most, how much a piece of work asks of it, and what a command takes: for benchmarks.

Nothing is computed at import. Peaks are the fastest of several runs over a few sizes as nets have them, so that a share
of the peak tells how far a net is from what torch itself can reach here.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from spear.pipeline import one_thread

Work = Callable[[], object]

_SECONDS = 0.15
"""For each size and type: how long it is tried."""
_MATRICES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square matrices that are multiplied."""
_CONVOLUTIONS = {
    "cpu": ((16, 256, 32), (32, 512, 16)),
    "cuda": ((64, 256, 64), (128, 512, 32)),
}
"""Batch, channels in and out, rows and columns of the 3x3 convolutions."""
_POLL = 0.2
"""Seconds between two looks at the memory of a command that has children."""
_STARTER = """
import os, resource, subprocess, sys, time
cores = [int(core) for core in sys.argv[1].split(",") if core]
if cores:
    os.sched_setaffinity(0, cores)
started = time.perf_counter()
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - started, used.ru_maxrss * 1024 / 1e9, used.ru_utime + used.ru_stime)
sys.exit(code)
"""


class Peak(NamedTuple):
    """Float operations per second of a matrix product and of a convolution; multiplying and adding are two."""

    matmul: float
    convolution: float


def higher(one: dict[str, Peak], other: dict[str, Peak]) -> dict[str, Peak]:
    """Of two measurements the better figures: a busy machine shows its peak now and then."""
    return {name: Peak(*map(max, peak, other[name])) for name, peak in one.items()}


class Cost(NamedTuple):
    """What a command took: seconds on the clock, peak memory in GB (1e9 bytes), and seconds of processor time."""

    seconds: float
    gigabytes: float
    processor: float


class Clock(NamedTuple):
    """Medians: seconds on the clock and of the processor."""

    wall: float
    processor: float


def clocked(work: Work, repeats: int = 3) -> Clock:
    """Time `repeats` calls, after one that warms up; the processor's seconds are of all threads of this process."""
    work()
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return Clock(*(statistics.median(column) for column in zip(*times, strict=True)))


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 itself; others emulate it, slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peaks(device: torch.device) -> dict[str, Peak]:
    """The measured peak in `fp32` and, where the device has it, in `bf16`, with as many threads as torch takes here."""
    types = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_bf16(device) else {})
    with torch.inference_mode():
        return {name: Peak(_matmul(device, kind), _convolution(device, kind)) for name, kind in types.items()}


def _matmul(device: torch.device, kind: torch.dtype) -> float:
    rates = []
    for side in _MATRICES.get(device.type, _MATRICES["cpu"]):
        a, b = torch.randn(2, side, side, device=device).to(kind)
        rates.append(rate(lambda a=a, b=b: a @ b, device))  # type: ignore[misc]
    return max(rates)


def _convolution(device: torch.device, kind: torch.dtype) -> float:
    rates = []
    for batch, channels, side in _CONVOLUTIONS.get(device.type, _CONVOLUTIONS["cpu"]):
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=kind)
        layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(batch, channels, side, side, device=device).to(kind, memory_format=torch.channels_last)
        rates.append(rate(lambda layer=layer, x=x: layer(x), device))  # type: ignore[misc]
    return max(rates)


def rate(work: Work, device: torch.device, seconds: float = _SECONDS) -> float:
    """Float operations per second of `work` at its fastest, after one call that warms up."""
    operations, fastest = flops_of(work), float("inf")
    synchronise(device)
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or fastest == float("inf"):
        work()
        synchronise(device)
        fastest = min(fastest, time.perf_counter() - started)
    return operations / fastest


class Worked(NamedTuple):
    """How a piece of work uses the machine with so many threads: its time, its float operations, the peak meanwhile."""

    threads: int
    clock: Clock
    operations: int
    highest: dict[str, Peak]

    @property
    def speed(self) -> float:
        """Float operations per second."""
        return self.operations / self.clock.wall


def worked(work: Work, device: torch.device, repeats: int) -> list[Worked]:
    """Of one thread and of as many as torch takes; peaks are measured before and after, the better one counts.

    Threads wait for each other, and where other programs are busy as well they wait long: one thread does not.
    """
    operations, rows, threads = flops_of(work), [], torch.get_num_threads()

    def done() -> None:
        work()
        synchronise(device)

    try:
        for count in sorted({1, threads}) if device.type == "cpu" else (threads,):
            torch.set_num_threads(count)
            before = peaks(device)
            clock = clocked(done, repeats)
            rows.append(Worked(count, clock, operations, higher(before, peaks(device))))
    finally:
        torch.set_num_threads(threads)
    return rows


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def flops_of(work: Work) -> int:
    """Operations of matrix products, convolutions and attention in `work`, forward and backward; not of what is done
    point by point, of sampling and of norms, whose time is that of the memory."""
    aten = torch.ops.aten
    ours = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        ours[torch.ops.onednn.qconv2d_pointwise] = _convolution_of_integers
    with FlopCounterMode(display=False, custom_mapping=ours) as counter, one_thread():  # it sees this thread alone
        work()
    return int(counter.get_total_flops())


def _convolution_of_integers(
    whole: Any, step: float, zero: int, weight: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """torch counts attention on GPUs, not this operator of CPUs."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def peak_memory(words: Sequence[object], cores: Sequence[int] = ()) -> Cost:
    """Run a command, its output thrown away; raises CalledProcessError, with what it said on stderr, where it fails.

    A small process starts it: on Linux what a large one starts is charged with its parent's memory. The memory is the
    most that one process of it had, or all of them together where five looks a second saw more; what several share
    counts for each. cores: those that it may use, as `taskset -c` would say; all if left out.
    """
    starter = [sys.executable, "-c", _STARTER, ",".join(map(str, cores)), *map(str, words)]
    run = subprocess.Popen(starter, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    together = 0.0
    while True:
        try:
            out, err = run.communicate(timeout=_POLL)
            break
        except subprocess.TimeoutExpired:
            together = max(together, _memory_below(run.pid))
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, list(map(str, words)), out, err)
    seconds, largest, processor = map(float, out.split())
    return Cost(seconds, max(largest, together), processor)


def _memory_below(pid: int) -> float:
    """GB that all descendants of a process have at this moment."""
    total = 0
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return 0.0
    for process in below:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # has ended meanwhile
            continue
    return total / 1e9
