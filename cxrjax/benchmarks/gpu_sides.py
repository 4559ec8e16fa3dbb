"""What the processes of `--mode=benchmark --what=gpu` do: compile, wait for 'go', measure.

    python -m cxrjax.benchmarks.gpu_sides KIND NAME SIZE BATCH REPEATS

Each line on stdout is a JSON object, its `what` being 'ready' (compiled), 'part' or 'result'.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# Set in a dry run: networks of a few channels, and these flags for the training.
DRY_RUN = os.environ.get("CXRJAX_GPU_DRY_RUN", "")
LONG = 4  # steps in one compiled loop, to compare with single calls


def say(what: str, **values: Any) -> None:
    """One line for the process that began this one."""
    print(json.dumps({"what": what, **values}), flush=True)


def wait_for_go(**values: Any) -> None:
    """Says that it is ready; returns when it is this process's turn."""
    say("ready", **values)
    if not sys.stdin.readline():
        raise SystemExit("nobody is there any more")


def device() -> None:
    """The card, versions, and its two ceilings."""
    import jax
    import jax.numpy as jnp

    from cxrjax.benchmarks import machine
    from cxrjax.training import experiment

    x = jnp.ones((2 if jax.default_backend() == "cpu" else 512, 2**20), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(10):
        y = copy(x)
    y.block_until_ready()
    bandwidth = 10 * 2 * x.nbytes / (time.perf_counter() - begun)
    say("result", device=machine.name(), platform=jax.default_backend(),
        versions=experiment.versions(), python=sys.version.split()[0],
        flops={"bfloat16": machine.measured_peak("bfloat16")}, bandwidth=bandwidth,
        flags=os.environ.get("XLA_FLAGS", ""), processors=os.cpu_count())


def _config(name: str, size: int, batch: int) -> Any:
    import jax

    from cxrjax.benchmarks import benchmark

    gpu = jax.default_backend() != "cpu"
    config = benchmark.network_config(name, size, batch, "bfloat16" if gpu else "float32")
    if DRY_RUN:
        config.model.width = 8
        if "depths" in config.model:
            config.model.depths = (1, 1, 1, 1)
    return config


def _times(run: Callable[[int], Any], repeats: int) -> dict[str, Any]:
    """Seconds a step: median and range over the turns."""
    from cxrjax.benchmarks import benchmark

    return benchmark.spread(benchmark.take_turns({"it": run}, repeats, lambda: None)["it"])


def ours(name: str, size: int, batch: int, repeats: int) -> None:
    """Training step and inference of our network."""
    import jax

    from cxrjax.benchmarks import benchmark
    from cxrjax.training import experiment, steps

    config = _config(name, size, batch)
    full = experiment.complete(config, benchmark.blank_films(config))
    mesh = steps.make_mesh(jax.devices()[:1])
    begun = time.perf_counter()
    own = benchmark.Ours(full, benchmark.make_batch(full), mesh)
    wait_for_go(compile_seconds=own.compile_seconds, until_compiled=time.perf_counter() - begun,
                flops=own.flops, planned=own.memory["planned"], batch=batch, size=size,
                precision=config.model.dtype)
    logs = own.train(1)
    memory = own.memory
    train = _times(own.train, repeats)
    say("part", train=train, memory=memory)
    say("result", train=train, inference=_times(own.infer, repeats), memory=memory, logs=logs,
        flops=own.flops, batch=batch, size=size, precision=config.model.dtype)


def torch(name: str, size: int, batch: int, repeats: int) -> None:
    """The same in PyTorch: compiled with channels_last and autocast, and eager with both."""
    import gc

    import numpy as np
    import torch

    from cxrjax.benchmarks import torch_reference, torch_side

    gpu = torch.cuda.is_available()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, size, size, 1), np.uint8)
    label = (rng.random((batch, 14)) < 0.5).astype(np.float32)
    optimizer = {"clip_norm": 1.0, "weight_decay": 1e-2, "learning_rate": 1e-3, "b1": 0.9,
                 "b2": 0.999}
    def side(compiled: bool) -> Any:
        torch.manual_seed(0)
        network = torch_reference.create(name, 14, 1, size, **({"width": 8} if DRY_RUN else {}))
        return torch_side.Side(network, image, label, "multilabel", (0.449, 0.226), optimizer, gpu,
                               True, compiled)

    def peak(run: Callable[[int], Any]) -> int | None:
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        run(1)
        return torch.cuda.max_memory_allocated() if gpu else None

    def free() -> None:
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()

    fast, seconds = side(True), {}
    for phase, run in (("train", fast.train), ("inference", fast.infer)):
        begun = time.perf_counter()
        run(1)
        seconds[phase] = time.perf_counter() - begun
    free()
    wait_for_go(compile_seconds=seconds, version=torch.__version__)
    fast.train(1)
    memory = peak(fast.train)
    found = {"train": _times(fast.train, repeats), "memory": memory}
    say("part", compiled=found)
    found["inference"] = _times(fast.infer, repeats)
    loss = fast.train(1)[0]
    say("part", compiled=found)
    del fast
    free()
    plain = side(False)
    plain.train(1)
    eager = {"memory": peak(plain.train), "train": _times(plain.train, max(1, repeats // 2)),
             "inference": _times(plain.infer, max(1, repeats // 2))}
    say("result", compiled=found, eager=eager, loss=loss, version=torch.__version__)


def mutual(name: str, size: int, batch: int, repeats: int) -> None:
    """The step of two networks that teach each other against that of one."""
    import jax
    from ml_collections import ConfigDict

    from cxrjax.benchmarks import benchmark
    from cxrjax.training import experiment, steps

    config = _config(name, size, batch)
    own = {"model": config.model.to_dict()}
    config.scheme = ConfigDict({"name": "mutual", "networks": ("a", "b"), "order": "sequential",
                                "peers": "mean", "kl_weight": 1.0, "temperature": 1.0,
                                "kl_labels": "mean"})
    config.networks = ConfigDict({"a": own, "b": own})
    full = experiment.complete(config, benchmark.blank_films(config))
    films = benchmark.make_batch(full)
    mesh = steps.make_mesh(jax.devices()[:1])
    pair = benchmark.Ours(full, films, mesh, inference=False)
    (single,) = benchmark.single_steps(full, films, mesh).values()
    wait_for_go(compile_seconds=pair.compile_seconds)
    pair.train(1)
    times = benchmark.take_turns({"pair": pair.train, "one": single.train}, repeats, pair.settle)
    ratio = benchmark.spread([a / b for a, b in zip(times["pair"], times["one"])])
    say("result", ratio=ratio, flops=pair.flops["train"] / single.flops["train"],
        pair=benchmark.spread(times["pair"]), one=benchmark.spread(times["one"]))


def scan(name: str, size: int, batch: int, repeats: int) -> None:
    """Training by a compiled loop over steps, as runs do it on a GPU, and one step a call."""
    import jax
    import numpy as np

    from cxrjax.benchmarks import benchmark
    from cxrjax.names import scheme_of
    from cxrjax.training import experiment, steps

    config = _config(name, size, batch)
    full = experiment.complete(config, benchmark.blank_films(config))
    films = benchmark.make_batch(full)
    mesh = steps.make_mesh(jax.devices()[:1])
    scheme = scheme_of(full)
    init_key, key = steps.keys_of(0)
    states = steps.replicate(scheme.init(full, init_key, films), mesh)
    batches = steps.shard({k: np.stack([v] * LONG) for k, v in films.items()}, mesh, axis=1)
    loop = steps.jit_steps(scheme.make_step(full), mesh, unroll=False)
    begun = time.perf_counter()
    loop = loop.lower(states, batches, key).compile()
    wait_for_go(compile_seconds={"train": time.perf_counter() - begun})

    def run(count: int) -> None:
        nonlocal states
        for _ in range(count):
            states, _ = loop(states, batches, key)
        jax.block_until_ready(states)

    times = _times(run, repeats)
    say("result", train={k: v / LONG for k, v in times.items()}, steps=LONG, batch=batch)


def layers(name: str, size: int, batch: int, repeats: int) -> None:
    """Single layers, forward and backward, by each way there is: which one ours should take."""
    import jax
    import jax.numpy as jnp

    from cxrjax.benchmarks import gpu_ways

    runs, difference = {}, {}
    for layer, (given, ways) in gpu_ways.layers(size, batch).items():
        first = None
        for way, function in ways.items():
            def loss(given, function=function):
                return jnp.sum(function(*given).astype(jnp.float32) ** 2)

            title = f"{layer}: {way}"
            try:
                run = jax.jit(jax.grad(loss))
                found = [x.astype(jnp.float32) for x in run(given)]
            except Exception as error:  # a shape that cuDNN does not take is a finding, too
                difference[title] = " ".join(str(error).split())[:200]
                continue
            first = first or found
            difference[title] = max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
                                    for a, b in zip(found, first))
            runs[title] = (run, given)
    wait_for_go()
    seconds: dict[str, Any] = {}
    for way, (run, given) in runs.items():
        seconds[way] = _times(
            lambda n, run=run, given=given: jax.block_until_ready([run(given) for _ in range(n)]),
            repeats,
        )
        say("part", seconds=seconds, difference=difference)
    say("result", seconds=seconds, difference=difference, batch=batch)


def training(name: str, size: int, batch: int, repeats: int) -> None:
    """The quickstart's training and its report, by the commands that a user gives."""
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="cxrjax-gpu-")) / "run"
    begun = time.perf_counter()
    for words in (["--mode=train", f"--config={name}", *DRY_RUN.split()],
                  ["--mode=evaluate"]):
        subprocess.run([sys.executable, "-m", "cxrjax", *words, f"--workdir={workdir}"],
                       check=True, stdout=sys.stderr)
        say("part", seconds=time.perf_counter() - begun)
    report = json.loads(next((workdir / "evaluation").rglob("report.json")).read_text())
    macro = next(_macros(report))
    say("result", seconds=time.perf_counter() - begun,
        auroc=[macro[f"macro AUROC{end}"] for end in ("", " low", " high")])


def _macros(tree: Any) -> Iterator[dict[str, Any]]:
    """The averages over labels that a report holds, in its order."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key == "macro":
            yield value
        else:
            yield from _macros(value)


KINDS: dict[str, Callable[..., None]] = {
    "ours": ours, "torch": torch, "mutual": mutual, "scan": scan, "layers": layers,
    "training": training,
}


def main(kind: str, name: str, size: int, batch: int, repeats: int) -> None:
    """One process's work; of `KINDS`, or the card itself."""
    if kind == "device":
        return device()
    KINDS[kind](name, size, batch, repeats)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:6]))
