"""Speed, memory and FLOPs of any config's training step and inference, beside PyTorch's if asked.

Batches are made from the shape and a seed: no data set is needed. Every network is measured in a
process of its own, so that its memory is its own; within it all that is compared takes turns
(A B A B ...), and a ratio is the median over the turns of (its seconds / ours): above 1 we are
faster. Compiled programs are not taken from the cache, so that compile times are true.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cxrjax import models as networks
from cxrjax.benchmarks import machine, table, torch_comparison
from cxrjax.data import artifacts, augment, input_pipeline, sets
from cxrjax.data.parallel import cores
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.models import convolutions
from cxrjax.names import program, scheme_of, suggest
from cxrjax.training import experiment, steps

MODELS = (
    "resnet18", "resnet50", "densenet121", "convnext_tiny", "conformer_tiny", "vit_small",
)
TURN_SECONDS = 0.8  # what one side computes before it is the other's turn


def main(
    config: Any, against: str | None, models: str | None, size: int | None, batch: int | None,
    repeats: int, output: str | None, what: str | None = None, films: int | None = None,
) -> int:
    """`--mode=benchmark`: a table in OUTPUT.md and OUTPUT.json; status 1 where something failed.

    Args:
      config: an experiment, or None for the list of networks.
      against: 'torch', or None.
      models: networks instead of the default ones, 'resnet18,resnet50'; without a config only.
      size, batch: instead of the config's (or of 64 and 32; 224 and 256 on a GPU).
      repeats: turns of each side.
      output: path without suffix; 'benchmark' by default.
      what: 'gpu' for all that wants one, see `gpu`; 'scale' for a whole data set, see `scale`.
      films: of `scale`.
    """
    if against not in (None, "torch"):
        raise UserError(f"--against={against}" + suggest(against, ["torch"]))
    if against and importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch needs torch: pip install 'cxrjax[torch]'")
    if config is not None and models:
        raise UserError("--models goes without --config, which names its network itself")
    if repeats < 1 or (size or 1) < 1 or (batch or 1) < 1:
        raise UserError("--repeats, --size and --batch must be 1 or more")
    names = [n.strip() for n in models.split(",")] if models else list(MODELS)
    known = networks.factories()
    for name in [] if config is not None else names:
        if name not in known:
            raise UserError(f"--models: unknown model {name!r}" + suggest(name, known))
    if films and what != "scale":
        raise UserError("--films is for --what=scale: the other benchmarks measure one batch")
    if what == "gpu":
        from cxrjax.benchmarks import gpu

        return gpu.main(output, names if models else gpu.MODELS, size, batch, repeats)
    if what == "scale":
        from cxrjax.benchmarks import scale

        return scale.main(output, films or scale.FILMS, size or scale.SIZE)
    stem = pathlib.Path(output or "benchmark")
    stem = stem.with_suffix("") if stem.suffix in (".md", ".json") else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    given = None if config is None else config.to_dict()
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "command": f"{program()} {shlex.join(sys.argv[1:])}",
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(against), "rows": rows, "host": None,
        # Taken before we add to it: what else the machine is doing.
        "load": os.getloadavg()[0], "cores": cores(),
    }
    asked = [None] if given else names
    for name in [*asked, "host"]:
        begun = time.perf_counter()
        try:
            if name == "host":
                report["host"] = _alone(measure_host, given)
            else:
                print(f"measuring {name or given['model']['name']} ...", flush=True)
                row = _alone(measure, given, name, size, batch, repeats, against)
                rows.append({**row, "seconds": time.perf_counter() - begun})
        except Exception as error:  # out of memory, say: the others are still worth measuring
            if isinstance(error, UserError) and not rows:
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            rows.append({"name": name or given["model"]["name"], "error": reason[0]})
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table.markdown(report))
    print(table.markdown(report))
    print(f"written to {stem}.md and {stem}.json")
    return int(any("error" in row for row in rows))


def _alone(function: Callable, *args: Any) -> Any:
    """What the function gives, run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _begin) as pool:
        return pool.submit(function, *args).result()


def _begin() -> None:
    """In the fresh process: true compile times, and room for the other side on the GPU."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to answer
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    jax.config.update("jax_enable_compilation_cache", False)


def versions(against: str | None) -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": sys.version.split()[0], **experiment.versions()}
    if against:
        found["torch"] = importlib.metadata.version("torch")
    return found


def network_config(name: str, size: int, batch: int, dtype: str) -> ConfigDict:
    """Supervised training of one network on films of 14 findings, without augmentation."""
    return ConfigDict({
        "seed": 0, "init_from": "", "batch_size": batch,
        "dataset": {"name": "chestxray14", "image_size": size},
        "model": {"name": name, **networks.defaults_of(name), "dtype": dtype},
        "scheme": {"name": "supervised"}, "loss": {"name": "bce"},
        "normalize": {"mean": 0.449, "std": 0.226}, "augment": dict(augment.DEFAULTS),
        "train_for": "1000 steps", "steps_per_call": 1,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2,
                      "momentum": 0.9, "nesterov": True, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0,
                      "accumulate": 1, "ema_decay": 0.0},
        "schedule": {"name": "constant", "warmup": "0 steps"},
    })


class _Blank:
    """Black films of a shape, for `train.complete`."""

    def __init__(self, shape: tuple[int, ...], count: int):
        self._shape, self._count = shape, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.zeros(self._shape, np.uint8)}


def blank_films(config: Any) -> Films:
    """Films as the config's data set has them, black, with random labels."""
    names, task, masks = sets.head(config.dataset.to_dict())
    count, size = 64 * config.batch_size, config.dataset.image_size
    labels = random_labels(np.random.default_rng(0), task, count, len(names))
    ids = np.array([f"film{i}" for i in range(count)])
    return Films(
        source=_Blank((size, size, 1), count), table={"id": ids, "label": labels},
        splits={"train": np.arange(count), "val": np.arange(0), "test": np.arange(0)},
        labels=names, task=task, masks=masks,
    )


def random_labels(rng: np.random.Generator, task: str, count: int, classes: int) -> np.ndarray:
    """f32[count, classes]: yes or no at even odds, or one-hot."""
    if task == "multilabel":
        return (rng.random((count, classes)) < 0.5).astype(np.float32)
    return np.eye(classes, dtype=np.float32)[rng.integers(0, classes, count)]


def make_batch(config: Any) -> dict[str, np.ndarray]:
    """One batch of random films for the completed config."""
    rng = np.random.default_rng(0)
    b, shape = config.batch_size, config.image_shape
    batch = {
        "image": rng.integers(0, 256, (b, *shape), np.uint8),
        "label": random_labels(rng, config.task, b, len(config.labels)),
        "weight": np.ones(b, np.float32),
    }
    if config.masks:
        batch["mask"] = rng.integers(0, 2, (b, *shape[:2], len(config.masks)), np.uint8)
        batch["has_mask"] = np.ones(b, bool)
    return batch


def measure(
    given: Mapping[str, Any] | None, name: str | None, size: int | None, batch: int | None,
    repeats: int, against: str | None,
) -> dict[str, Any]:
    """One row: the config `given`, or else the network `name`; see `main` for the rest."""
    gpu = jax.default_backend() != "cpu"
    if given is None:
        config = network_config(name, size or (224 if gpu else 64), batch or (256 if gpu else 32),
                                "bfloat16" if gpu else "float32")
    else:
        config = ConfigDict(given)
        config.dataset.image_size = size or config.dataset.image_size
        config.batch_size = batch or config.batch_size
    with config.unlocked(), config.ignore_type():
        changed = torch_comparison.equalise(config) if against else []
        mesh = steps.make_mesh(jax.devices()[:1] if against else None)
        steps.check_batch_size(config.batch_size, mesh.size)
    full = experiment.complete(config, blank_films(config))
    host_batch = make_batch(full)
    own = Ours(full, host_batch, mesh)
    precision = str(config.model.get("dtype", "float32"))
    out = {
        "name": config.model.name, "scheme": config.scheme.name,
        "networks": list(config.scheme.get("networks", ())), "image_size": full.image_shape[0],
        "batch": config.batch_size, "precision": precision, "device": machine.name(),
        "platform": jax.default_backend(), "devices": mesh.size, "repeats": repeats,
        "changed": changed,
    }
    sides, torch_sides = {}, {}
    if against:
        import torch

        out["logits_difference"], torch_sides = torch_comparison.contestants(
            full, host_batch, *own.variables.values(), gpu
        )
        out["torch_threads"] = torch.get_num_threads()
        sides = {what: side.infer for what, side in torch_sides.items()}
    infer_times = take_turns({"ours": own.infer, **sides}, repeats, own.settle)
    first = own.train(1)
    out["memory"] = own.memory
    if against:
        out["first_step"] = torch_comparison.check_first_step(first, torch_sides, precision)
        sides = {what: side.train for what, side in torch_sides.items()}
    else:
        sides = single_steps(full, host_batch, mesh)
    singles = {} if against else dict(sides)
    train_times = take_turns(
        {"ours": own.train, **{k: getattr(s, "train", s) for k, s in sides.items()}}, repeats,
        own.settle,
    )
    out["peak_flops"] = machine.measured_peak(precision) * mesh.size
    for phase, times in (("train", train_times), ("inference", infer_times)):
        flops = own.flops[phase]
        out[phase] = {
            "films_per_second": spread([config.batch_size / t for t in times["ours"]]),
            "compile_seconds": own.compile_seconds[phase], "flops": flops,
            "share_of_peak": flops / np.median(times["ours"]) / out["peak_flops"],
        }
    out["against"] = {
        what: {
            phase: {
                "films_per_second": spread([config.batch_size / t for t in times[what]]),
                "ratio": spread([a / b for a, b in zip(times[what], times["ours"])]),
            }
            for phase, times in (("train", train_times), ("inference", infer_times))
        } | {"memory": side.peak_memory()}
        for what, side in torch_sides.items()
    }
    out["in_single_steps"] = None
    if singles:
        count = len(out["networks"]) or 1
        cohort = [config.networks[n].model.name for n in out["networks"]] or [config.model.name]
        mean = sum(singles[n].flops["train"] for n in cohort) / count
        per_turn = [
            own_time / (sum(train_times[n][i] for n in cohort) / count)
            for i, own_time in enumerate(train_times["ours"])
        ]
        out["in_single_steps"] = {"of": cohort, "flops": own.flops["train"] / mean,
                                  "time": spread(per_turn)}
    return out


class Ours:
    """The compiled training step and inference of a completed config on one batch."""

    def __init__(self, config: FrozenConfigDict, batch: Mapping[str, np.ndarray], mesh: Any,
                 inference: bool = True):
        scheme = scheme_of(config)
        init_key, self._key = steps.keys_of(config.seed)
        states = scheme.init(config, init_key, batch)
        # Norms' and scales' initial values hide whole blocks from a comparison of logits.
        states = steps.replicate(unlike_initial(jax.device_get(states)), mesh)
        # Buffers of their own, to be donated; in one program, not in one for each shape.
        self._states = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(states)
        self.variables = {
            name: jax.device_get({"params": s.params, "batch_stats": s.batch_stats})
            for name, s in self._states.items() if hasattr(s, "batch_stats")
        }
        self._batch = steps.shard({k: v[None] for k, v in batch.items()}, mesh, axis=1)
        self._image = steps.shard_whole(batch["image"], mesh)
        self.flops, self.compile_seconds, planned = {}, {}, 0
        # One step written out: what XLA counts in a loop is a single turn of it.
        self._step, planned = self._compile(
            "train", lambda: steps.jit_steps(scheme.make_step(config), mesh, unroll=True),
            self._states, self._batch, self._key)
        if inference:
            self._predict, _ = self._compile(
                "inference", lambda: steps.jit_predict(scheme.make_predict(config), mesh),
                self._states, self._image)
        self.memory: dict[str, Any] = {"planned": planned}
        self._first = True

    def _compile(self, what: str, make: Callable[[], Any], *args: Any) -> tuple[Any, int]:
        begun = time.perf_counter()
        compiled = make().lower(*args).compile()
        self.compile_seconds[what] = time.perf_counter() - begun
        counted = compiled
        if convolutions.on_cpu():  # the plain sum: of a loop over parts one turn would count
            with convolutions.traced_for("plain"):
                counted = make().lower(*args)
        cost, memory = counted.cost_analysis() or {}, compiled.memory_analysis()
        cost = cost[0] if isinstance(cost, list) else cost
        self.flops[what] = float(cost.get("flops", math.nan))
        planned = (
            memory.argument_size_in_bytes + memory.output_size_in_bytes
            + memory.temp_size_in_bytes - memory.alias_size_in_bytes
        ) if memory else 0
        return compiled, planned

    def train(self, count: int) -> dict[str, float]:
        """`count` training steps; the last one's logs. The first call measures the memory."""
        before = machine.forget_peak() if self._first else 0
        for _ in range(count):
            self._states, logs = self._step(self._states, self._batch, self._key)
        logs = {k: float(np.asarray(v)[0]) for k, v in logs.items()}
        jax.block_until_ready(self._states)
        if self._first:
            self._first = False
            arrays = sum(x.nbytes for x in jax.tree.leaves((self._states, self._batch)))
            stats = jax.local_devices()[0].memory_stats() or {}
            if "peak_bytes_in_use" in stats:
                self.memory |= {"measured": stats["peak_bytes_in_use"], "how": "device"}
            elif (peak := machine.resident("VmHWM")) is not None:
                self.memory |= {"measured": peak - before + arrays, "how": "resident"}
        return logs

    def infer(self, count: int) -> None:
        """`count` times the logits of the batch."""
        for _ in range(count):
            outputs = self._predict(self._states, self._image)
        jax.block_until_ready(outputs)

    def settle(self) -> None:
        """Between turns: nothing of the last one is left to be freed in the next."""
        gc.collect()
        time.sleep(0.02)  # waiting threads of either side spin for a while before they sleep


def unlike_initial(states: Any) -> Any:
    """The states with random norms, biases, statistics and layer scales, kept near where they were.
    """
    rng = np.random.default_rng(0)

    def move(path: Any, leaf: Any) -> Any:
        name = getattr(path[-1], "key", None)
        noise = rng.standard_normal(np.shape(leaf)).astype(np.float32)
        if name == "var":
            return 0.5 + np.abs(noise)
        if name == "layer_scale":
            return 0.1 + 0.02 * noise
        return leaf + 0.1 * noise if name in ("bias", "mean", "scale") else leaf

    def one(state: Any) -> Any:
        if not isinstance(state, steps.TrainState):
            return state
        params = jax.tree_util.tree_map_with_path(move, state.params)
        stats = jax.tree_util.tree_map_with_path(move, state.batch_stats)
        return state.replace(params=params, batch_stats=stats)

    return {name: one(state) for name, state in states.items()}


def single_steps(
    config: FrozenConfigDict, batch: Mapping[str, np.ndarray], mesh: Any
) -> dict[str, Ours]:
    """A supervised step of each distinct network of a scheme; {} for supervised training."""
    if config.scheme.name == "supervised":
        return {}
    found = {}
    for member in config.scheme.get("networks", ()) or (None,):
        model = (config.model if member is None else config.networks[member].model).to_dict()
        if model["name"] not in found:
            alone = FrozenConfigDict({
                **config.to_dict(), "model": model, "scheme": {"name": "supervised"}
            })
            found[model["name"]] = Ours(alone, batch, mesh, inference=False)
    return found


def take_turns(
    sides: Mapping[str, Callable[[int], Any]], repeats: int, settle: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds per step of each side in each turn; every side warms up first."""
    counts = {}
    for name, run in sides.items():
        run(1)
        begun = time.perf_counter()
        run(1)
        counts[name] = max(1, min(1000, round(TURN_SECONDS / (time.perf_counter() - begun))))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            settle()
            run(1)  # not timed: the first step after the other's turn is not what training does
            begun = time.perf_counter()
            run(counts[name])
            times[name].append((time.perf_counter() - begun) / counts[name])
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def measure_host(given: Mapping[str, Any] | None, seconds: float | int = 1.0) -> dict[str, Any]:
    """Films/s on one core: the artefact removal, and reading the config's prepared films."""
    out: dict[str, Any] = {"remove_bright_artifacts": {}, "reading": None, "device": machine.name()}
    for size, count in ((1024, 2), (256, 32)):
        films = machine.film_like(size, count)
        out["remove_bright_artifacts"][str(size)] = machine.rate(
            lambda f=films: artifacts.remove_bright_artifacts(f), count, seconds
        )
    if given is None:
        return out
    try:
        films = sets.load(given["dataset"])
    except UserError as error:
        return {**out, "not_read": str(error)}
    positions = iter(np.random.default_rng(0).choice(films.splits["train"], 1_000_000))
    selection = input_pipeline.Selection(films.source, np.arange(len(films.source)))
    out["reading"] = machine.rate(lambda: selection[int(next(positions))], 1, seconds)
    return out
