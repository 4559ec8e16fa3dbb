"""The benchmark: fields and identities of its figures, not speeds."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from cxrjax import models
from cxrjax.benchmarks import benchmark, machine, table, torch_comparison
from cxrjax.errors import UserError

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="compares with PyTorch: torch is missing")


def tiny():
    config = benchmark.network_config("resnet18", 32, 4, "float32")
    config.model.update(width=4, depths=(1, 1), small_stem=True)
    return config


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(benchmark, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(machine, "measured_peak", lambda dtype: 1e11)


def mutual():
    config = tiny()
    own = {"model": config.model.to_dict()}
    config.scheme = ConfigDict({
        "name": "mutual", "networks": ("a", "b"), "order": "sequential", "peers": "mean",
        "kl_weight": 1.0, "temperature": 1.0, "kl_labels": "mean",
    })
    config.networks = ConfigDict({"a": own, "b": own})
    return config


def report(row):
    return {"command": "c", "date": "d", "versions": {"jax": "0"}, "rows": [row], "host": None,
            "load": 0.0, "cores": 2}


def test_a_pair_costs_seven_thirds_of_a_single_step(monkeypatch):
    def take_turns(sides, repeats, settle):
        for run in sides.values():
            run(1)
        return {name: [0.5, 0.25] if name == "ours" else [0.2, 0.1] for name in sides}

    monkeypatch.setattr(benchmark, "take_turns", take_turns)  # seconds that no clock has measured
    row = benchmark.measure(mutual().to_dict(), None, None, None, 2, None)
    assert row["in_single_steps"]["of"] == ["resnet18", "resnet18"]
    # 7/3 if a backward pass costs two forward ones; the stem's gradient by the films is not needed.
    assert 2.2 < row["in_single_steps"]["flops"] < 2.5
    for phase in ("train", "inference"):
        assert row[phase]["films_per_second"] == {"min": 8.0, "median": 12.0, "max": 16.0}
        assert row[phase]["compile_seconds"] > 0
        share = row[phase]["flops"] / 0.375 / 1e11
        assert row[phase]["share_of_peak"] == pytest.approx(share, rel=1e-6)
    assert row["in_single_steps"]["time"] == pytest.approx({"min": 2.5, "median": 2.5, "max": 2.5})
    assert row["train"]["flops"] > 2.5 * row["inference"]["flops"] > 0
    assert row["memory"]["planned"] > 0
    page = table.markdown(report(json.loads(json.dumps(row))))
    assert "In single steps" in page and "4 x 32x32" in page


@needs_torch
def test_torch_gives_the_same_logits_and_the_same_first_step():
    row = benchmark.measure(tiny().to_dict(), None, None, None, 2, "torch")
    assert row["logits_difference"] < 1e-4
    first = row["first_step"]
    assert first["eager"]["loss"] == pytest.approx(first["ours"]["loss"], rel=1e-3)
    assert first["eager"]["grad_norm"] == pytest.approx(first["ours"]["grad_norm"], rel=1e-2)
    for side in row["against"].values():
        for phase in ("train", "inference"):
            assert side[phase]["ratio"]["min"] <= side[phase]["ratio"]["max"]
    page = table.markdown(report(row))
    assert "Against PyTorch" in page and "do not hold" not in page
    assert "do not hold" in table.markdown({**report(row), "load": 5.0})


@needs_torch
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_small_transformer_equals_its_torch_reference(pool):
    config = benchmark.network_config("vit_small", 32, 4, "float32")
    config.model.update(width=16, depth=2, heads=2, patch=8, pool=pool)
    row = benchmark.measure(config.to_dict(), None, None, None, 1, "torch")
    assert row["logits_difference"] < 1e-4  # and the first steps were compared
    config.model.image_size = 64
    with pytest.raises(UserError, match="resample"):
        torch_comparison.equalise(config)


@needs_torch
def test_tokens_and_norms_do_not_decay_on_torchs_side_either():
    from cxrjax.benchmarks import torch_reference, torch_side
    from cxrjax.training import optim

    ours = models.create("vit_small", 3, width=16, depth=2, heads=2, patch=8)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    decays = traverse_util.flatten_dict(optim.decay_mask(shapes["params"]))
    theirs = torch_reference.create("vit_small", 3, 1, 32, width=16, depth=2, heads=2, patch=8)
    optimizer = torch_side.optimizer_of(theirs, {
        "learning_rate": 1e-3, "weight_decay": 1e-2, "b1": 0.9, "b2": 0.999,
    })
    counts = [len(group["params"]) for group in optimizer.param_groups]
    assert counts == [sum(decays.values()), len(decays) - sum(decays.values())]


@needs_torch
def test_another_first_step_is_not_compared():
    class Other:
        def train(self, count):
            return 0.70, 1.1

    same = {"loss": 0.70, "grad_norm": 1.0}
    with pytest.raises(UserError, match="differ"):
        torch_comparison.check_first_step(same, {"eager": Other()}, "float32")


@needs_torch
def test_what_torch_does_not_do_is_switched_off_and_said():
    config = tiny()
    config.augment.rotate = 5.0
    config.model.drop_path = 0.1
    with config.unlocked(), config.ignore_type():
        changed = torch_comparison.equalise(config)
    assert changed == ["augment.rotate=0.0", "model.drop_path=0.0"]
    assert config.augment.rotate == config.model.drop_path == 0
    with pytest.raises(UserError, match="supervised"):
        torch_comparison.equalise(mutual())


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.MODELS[1:])
def test_every_network_equals_its_torch_reference(name):
    row = benchmark.measure(None, name, 64, 2, 1, "torch")
    assert row["logits_difference"] < 1e-4


def test_turns_alternate():
    order = []
    sides = {n: (lambda count, n=n: order.append(n)) for n in "ab"}
    times = benchmark.take_turns(sides, 3, lambda: None)
    assert order[-12:] == list("aabb" * 3)  # each turn begins with a step that is not timed
    assert len(times["a"]) == len(times["b"]) == 3


@pytest.mark.parametrize("change, words", [
    ({"against": "tensorflow"}, "torch"), ({"models": "resnet19"}, "resnet18"),
    ({"repeats": 0}, "--repeats"),
])
def test_mistakes_are_named(change, words, tmp_path):
    flags = {"config": None, "against": None, "models": None, "size": None, "batch": None,
             "repeats": 1, "output": str(tmp_path / "b")}
    with pytest.raises(UserError, match=words):
        benchmark.main(**{**flags, **change})


def test_host_speeds():
    host = benchmark.measure_host({"dataset": {
        "name": "tests.toy:", "raw_dir": "", "data_dir": "", "image_size": 16,
    }}, 0.05)
    assert host["reading"] > 0 and set(host["remove_bright_artifacts"]) == {"1024", "256"}
    films = machine.film_like(64, 2)
    assert films.shape == (2, 64, 64) and films.dtype == np.uint8
