"""How fast films on the device and several seeds train, beside the plain run; for docs.

    python -m tests.training.cache_and_seeds_speed cache resnet18 64 32 9
    python -m tests.training.cache_and_seeds_speed seeds resnet18 64 32 7

The last three: side of the films, batch, turns. All sides take turns in one process; a figure is
the median over the turns of (the plain run's seconds / its own), with the range: above 1 it is
faster. One more word leaves a side out ('in one program' takes three times as long to compile).
"""

import sys
import time

import jax
import numpy as np

from cxrjax.benchmarks import benchmark
from cxrjax.data import input_pipeline
from cxrjax.names import scheme_of
from cxrjax.training import abreast, experiment, steps, stream

SECONDS = 1.0  # of a turn, about
SEEDS = 3


class Lane:
    """What `abreast` takes steps with, without a workdir."""

    def __init__(self, run, states, batch):
        self.run, self._states, self._batch, self.record = run, states, batch, self
        self.step_key = run.step_key

    def next_batch(self):
        return self._batch

    @property
    def states(self):
        return self._states() if callable(self._states) else self._states

    def moved(self, states, logs):
        self._states, self.logs = states, logs


class Run:
    """The compiled step of a config, and a key."""

    def __init__(self, step, key):
        self.step, self.step_key = step, key


def complete(name, size, batch):
    config = benchmark.network_config(name, size, batch, "float32")
    with config.unlocked(), config.ignore_type():
        config.augment.rotate = 7.0
        config.threads, config.reading_processes = 2, 0
        return experiment.complete(config, benchmark.blank_films(config))


def cache(name, size, batch):
    """{'films from memory': a call, 'on the device': a call}, of one network with its films."""
    config, mesh = complete(name, size, batch), steps.make_mesh()
    films = benchmark.blank_films(config)
    pixels = np.random.default_rng(0).integers(0, 256, (len(films.source), size, size, 1), np.uint8)
    records = [{"image": image, "label": label, "id": ""}
               for image, label in zip(pixels, films.table["label"])]
    films = type(films)(**{**films.__dict__, "source": input_pipeline.Cached(records)})
    step = steps.jit_steps(scheme_of(config).make_step(config), mesh)
    sample, key = benchmark.make_batch(config), jax.random.key(0)

    def side(on_device):
        own = type(config)({**config.to_dict(), "cache_on_device": on_device})
        source = stream.open_stream(own, films, mesh)
        states = [steps.replicate(scheme_of(config).init(config, key, sample), mesh)]

        def run():
            states[0], logs = step(states[0], next(source)[1], key)
            jax.block_until_ready(logs)

        return run

    return {"films in the host's memory": side(False), "films on the device": side(True)}


def seeds(name, size, batch):
    """{way: a step of three seeds}: by turns, in one program one after the other, at once."""
    config, mesh = complete(name, size, batch), steps.make_mesh()
    host = benchmark.make_batch(config)
    shared = steps.shard({k: v[None] for k, v in host.items()}, mesh, axis=1)
    step = scheme_of(config).make_step(config)
    keys = [jax.random.key(i) for i in range(SEEDS)]

    def states():
        init = scheme_of(config).init
        own = [steps.replicate(init(config, key, host), mesh) for key in keys]
        structure = jax.tree.structure(own[0])  # as `training.seeds` gives it to all of them
        return [jax.tree.unflatten(structure, jax.tree.leaves(s)) for s in own]

    one = steps.jit_steps(step, mesh)
    inside = jax.jit(
        lambda states, keys: [steps.scan_steps(step)(s, shared, k) for s, k in zip(states, keys)],
        donate_argnums=0,
    )

    def advancing(advance):
        lanes = [Lane(Run(one, key), own, shared) for key, own in zip(keys, states())]

        def run():
            advance(lanes)
            jax.block_until_ready([lane.logs for lane in lanes])

        return run

    held = [states()]

    def in_one_program():
        out = inside(held[0], keys)
        held[0] = [states for states, _ in out]
        jax.block_until_ready(out)

    return {"by turns": advancing(abreast.by_turns), "in one program": in_one_program,
            "at once (vmap)": advancing(abreast.AtOnce(step, mesh))}


def main(what, name, size, batch, turns, leave_out=""):
    size, batch, turns = int(size), int(batch), int(turns)
    jax.config.update("jax_enable_compilation_cache", False)
    sides = {"cache": cache, "seeds": seeds}[what](name, size, batch)
    sides = {side: run for side, run in sides.items() if side != leave_out}
    first, counts = {}, {}
    for side, run in sides.items():
        begun = time.perf_counter()
        run()
        first[side] = time.perf_counter() - begun
        run()
        begun = time.perf_counter()
        run()
        counts[side] = max(1, round(SECONDS / (time.perf_counter() - begun)))
    times = {side: [] for side in sides}
    for _ in range(turns):
        for side, run in sides.items():
            run()
            begun = time.perf_counter()
            for _ in range(counts[side]):
                run()
            times[side].append((time.perf_counter() - begun) / counts[side])
    plain = next(iter(sides))
    films = batch * (SEEDS if what == "seeds" else 1)
    for side in sides:
        ratio = np.array(times[plain]) / times[side]
        print(f"| {name}, {batch} x {size}x{size} | {side} | {films / np.median(times[side]):.0f} "
              f"| {np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f}) "
              f"| {first[side]:.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
