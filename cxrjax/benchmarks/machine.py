"""What a machine can do, and how much memory this process holds: for the benchmark."""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cxrjax.data.parallel import cores


def measured_peak(dtype: str) -> float:
    """FLOP/s of one device in a large product of square matrices, the best of five."""
    n = 8192 if jax.default_backend() != "cpu" else 2048 if dtype == "float32" else 1024
    x = jax.random.normal(jax.random.key(0), (n, n), dtype) / n**0.5
    times = 10 if n == 8192 else 1

    @jax.jit
    def product(x):
        y = x
        for _ in range(times):
            y = y @ x
        return y

    product(x).block_until_ready()
    best = math.inf
    for _ in range(5):
        begun = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 * times / best


def resident(field: str) -> int | None:
    """Bytes of this process in memory, now ('VmRSS') or at most ('VmHWM'); None where unknown."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")]
    return found[0] if found else None


def forget_peak() -> int:
    """Sets the process's peak back to what it holds now, and returns that."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not ours to set back here: the peak then is that of the whole process
    return resident("VmRSS") or 0


def busy() -> float | None:
    """CPU seconds that this machine's cores worked since it began, for whomever; None if unknown.

    Work that a host took from a virtual machine ('steal') counts: it was not ours.
    """
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def name() -> str:
    """The accelerator's name, or the processor's with the number of cores that we may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    name = "CPU"
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {cores()} cores"


def film_like(size: int, count: int) -> UInt8[np.ndarray, "{count} {size} {size}"]:
    """u8[count, size, size]: a smooth body, noise, and a few narrow bright bars."""
    rng = np.random.default_rng(0)
    wave = np.sin(np.linspace(0, math.pi, size))
    films = 170 * np.outer(wave, wave) + rng.normal(0, 4, (count, size, size))
    for film in films:
        for row, column in rng.integers(0, size - size // 8, (6, 2)):
            film[row : row + size // 8, column : column + 20] += 90
    return np.clip(films, 0, 255).astype(np.uint8)


def rate(run: Callable[[], Any], films: int, seconds: float | int) -> float:
    """Films/s of a function that does `films` of them at a call, over that many seconds."""
    run()
    begun, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        run()
        done += films
    return done / elapsed
