"""What each way of convolving costs, for docs/convolutions.md.

    python -m tests.models.convolutions_speed [TURNS] [BATCH]
    python -m tests.models.convolutions_speed TURNS BATCH 64|224

Milliseconds of XLA's convolution and of the way that `models/convolutions` takes for the shape,
forward and with both derivatives, medians of turns in one process; on a machine that does nothing
else. With the side of the films: GFLOP/s of PyTorch's convolution and of ours, for the shapes in
which ResNets and DenseNet-121 spend their time.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from cxrjax import tables
from cxrjax.models import convolutions

# Positions a side, channels in and out, kernel, stride: of ResNets, DenseNets, Conformer at 64 and
# 224 px, and some that stay with XLA.
SHAPES = (
    (16, 64, 64, 3, 1), (8, 128, 128, 3, 1), (4, 256, 256, 3, 1), (2, 512, 512, 3, 1),
    (56, 64, 64, 3, 1), (28, 128, 128, 3, 1), (14, 256, 256, 3, 1), (7, 512, 512, 3, 1),
    (16, 128, 32, 3, 1), (8, 128, 32, 3, 1), (4, 128, 32, 3, 1), (56, 128, 32, 3, 1),
    (28, 128, 32, 3, 1), (14, 128, 32, 3, 1), (16, 32, 32, 3, 1), (3, 256, 256, 3, 1),
    (16, 64, 128, 3, 2), (8, 128, 256, 3, 2), (56, 64, 128, 3, 2), (28, 256, 256, 3, 2),
    (14, 512, 512, 3, 2), (224, 1, 64, 7, 2), (64, 1, 64, 7, 2), (64, 16, 16, 3, 1),
    (16, 16, 16, 3, 1),
)
# The same, by the side of the films: each network's stem, 3x3 and widest 1x1 convolutions.
BESIDE = {
    64: ((64, 1, 64, 7, 2), (16, 64, 64, 3, 1), (8, 128, 128, 3, 1), (4, 256, 256, 3, 1),
         (2, 512, 512, 3, 1), (16, 128, 32, 3, 1), (8, 128, 32, 3, 1), (4, 128, 32, 3, 1),
         (16, 256, 128, 1, 1), (8, 512, 128, 1, 1), (4, 1024, 128, 1, 1), (4, 256, 1024, 1, 1)),
    224: ((224, 1, 64, 7, 2), (56, 64, 64, 3, 1), (28, 128, 128, 3, 1), (14, 256, 256, 3, 1),
          (7, 512, 512, 3, 1), (56, 64, 128, 3, 2), (28, 128, 256, 3, 2), (56, 128, 32, 3, 1),
          (28, 128, 32, 3, 1), (14, 128, 32, 3, 1), (56, 256, 128, 1, 1), (28, 512, 128, 1, 1),
          (14, 1024, 128, 1, 1), (14, 256, 1024, 1, 1)),
}
SECONDS = 0.1  # of a turn


def with_derivatives(convolve):
    def f(x, kernel, g):
        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(g)

    return jax.jit(f)


def milliseconds(functions, args, turns):
    times = {name: [] for name in functions}
    counts = {}
    for name, f in functions.items():
        jax.block_until_ready(f(*args))
        begun = time.perf_counter()
        jax.block_until_ready(f(*args))
        counts[name] = max(1, int(SECONDS / (time.perf_counter() - begun)))
    for _ in range(turns):
        for name, f in functions.items():
            begun = time.perf_counter()
            for _ in range(counts[name]):
                out = f(*args)
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - begun) / counts[name] * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def way_of(x, kernel, stride, padding):
    """The function that `convolutions.convolve` calls for these shapes."""
    text = str(jax.make_jaxpr(lambda x, k: convolutions.convolve(x, k, stride, padding))(x, kernel))
    return next((name for name in ("by_winograd", "narrowing", "by_patches") if name in text),
                "XLA's")


def of_torch(x, kernel, g, stride, padding):
    """{form: (forward, with derivatives)} of PyTorch's convolution on the same numbers."""
    import torch

    def made(array, axes, layout):
        return torch.from_numpy(np.array(array).transpose(axes)).contiguous(memory_format=layout)

    sides = {}
    for name, layout in (("eager", torch.contiguous_format), ("last", torch.channels_last)):
        film, weight = made(x, (0, 3, 1, 2), layout), made(kernel, (3, 2, 0, 1), layout)
        back = made(g, (0, 3, 1, 2), layout)

        def forward(*_, film=film, weight=weight):
            with torch.inference_mode():
                torch.nn.functional.conv2d(film, weight, None, stride, padding)

        def all_three(*_, film=film, weight=weight, back=back):
            own = [a.detach().requires_grad_() for a in (film, weight)]
            y = torch.nn.functional.conv2d(*own, None, stride, padding)
            torch.autograd.grad(y, own, back)

        sides[name] = forward, all_three
    return sides


def beside(turns, batch, size):
    """The table beside PyTorch: the better of its two forms in each cell."""
    rng = np.random.default_rng(0)
    rows = []
    for side, c, o, k, stride in BESIDE[size]:
        padding, made = k // 2, (side - 1) // stride + 1
        x, kernel, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (
            (batch, side, side, c), (k, k, c, o), (batch, made, made, o)))
        convolve = functools.partial(convolutions.convolve, stride=stride, padding=padding)
        theirs = of_torch(x, kernel, g, stride, padding)
        cells = [f"{side}x{side}x{c}", f"{o}", f"{k}x{k}, {stride}"]
        for which, ours in enumerate((jax.jit(lambda x, k, g, f=convolve: f(x, k)),
                                      with_derivatives(convolve))):
            sides = {"ours": ours, **{name: pair[which] for name, pair in theirs.items()}}
            took = milliseconds(sides, (x, kernel, g), turns)
            gflop = 2e-9 * batch * made**2 * k * k * c * o * (1, 3)[which]
            best = min(took[name] for name in theirs)
            cells += [f"{gflop / best * 1e3:.0f}", f"{gflop / took['ours'] * 1e3:.0f}",
                      f"{best / took['ours']:.2f}"]
        rows.append(cells)
    head = ["map", "to", "kernel, stride", "forward: PyTorch, GFLOP/s", "ours", "times as fast",
            "with derivatives: PyTorch, GFLOP/s", "ours", "times as fast"]
    print("\n".join(tables.table(head, rows, range(3, 9))))


def main(turns=7, batch=32, size=None):
    if size:
        return beside(turns, batch, size)
    rng = np.random.default_rng(0)
    rows = []
    for side, c, o, k, stride in SHAPES:
        padding = k // 2
        made = (side - 1) // stride + 1
        x, kernel, g = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (
            (batch, side, side, c), (k, k, c, o), (batch, made, made, o)))
        ways = {
            "XLA": functools.partial(convolutions._xla, stride=stride, padding=padding),
            "ours": functools.partial(convolutions.convolve, stride=stride, padding=padding),
        }
        cells = [f"{side}x{side}x{c}", f"{o}", f"{k}x{k}, {stride}",
                 way_of(x, kernel, stride, padding)]
        forward = {n: jax.jit(lambda x, k, g, f=f: f(x, k)) for n, f in ways.items()}
        for functions in (forward, {n: with_derivatives(f) for n, f in ways.items()}):
            took = milliseconds(functions, (x, kernel, g), turns)
            cells += [f"{took['XLA']:.2f}", f"{took['ours']:.2f}",
                      f"{took['XLA'] / took['ours']:.2f}"]
        rows.append(cells)
    head = ["map", "to", "kernel, stride", "way", "XLA, ms", "ours, ms", "times as fast",
            "with derivatives: XLA, ms", "ours, ms", "times as fast"]
    print("\n".join(tables.table(head, rows, range(4, 10))))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
