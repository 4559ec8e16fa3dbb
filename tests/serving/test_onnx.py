"""ONNX by the translation of primitives: onnxruntime answers as JAX does, or it is refused."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict

from cxrjax.errors import UserError
from cxrjax.models import convolutions, groups
from cxrjax.serving import export, onnx_graph, sources
from cxrjax.training import experiment
from tests import small_run

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def both(function, films, size):
    with convolutions.traced_for("plain"):
        data = onnx_graph.to_model(function, size, "test").SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"film": films})))
    return found, {k: np.asarray(v) for k, v in jax.jit(function)(jnp.asarray(films)).items()}


def pieces(film):
    """A little of everything that networks compute."""
    x = film.astype(jnp.float32) / 255
    flat = x.reshape(x.shape[0], -1)
    rows = lax.slice_in_dim(x, 0, 8, 2, axis=1)[:, :, 1:].reshape(x.shape[0], 4, 7)
    pooled = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                               ((0, 0), (1, 1), (1, 1), (0, 0)))
    scores = jnp.einsum("bij,bkj->bik", rows, rows)
    token = jnp.broadcast_to(jnp.arange(4.0)[None, None], (x.shape[0], 1, 4))
    halves = jnp.split(flat, 2, axis=1)
    return {
        "softmax": jax.nn.softmax(scores, axis=-1), "pooled": pooled, "token": token,
        "gelu": jax.nn.gelu(flat - 0.5, approximate=False), "half": halves[1] ** 3,
        "rev": x[:, ::-1], "log": jnp.log1p(flat) + lax.rsqrt(flat + 1),
        "chosen": jnp.where(flat > 0.5, flat, -flat), "norm": (flat - flat.mean(1, keepdims=True)),
        "padded": jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), constant_values=0.5),
        "apart": lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 1), (0, 1, 2), (0, 0, 0))),
        "added": jnp.zeros((x.shape[0], 9)).at[:, np.array([4, 0, 4])].add(flat[:, :3]),
        "upward": lax.conv_transpose(x, jnp.arange(12.0).reshape(2, 3, 1, 2) / 12, (2, 2), "SAME"),
    }


@pytest.mark.parametrize("number", [1, 3])
def test_each_piece_is_jaxs(number):
    films = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 1), dtype=np.uint8)
    found, right = both(pieces, films, 8)
    assert set(found) == set(right)
    for name, value in right.items():
        np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)


def test_what_is_not_translated_is_refused_by_its_name():
    with pytest.raises(UserError, match="'sort', which is not translated to ONNX"):
        onnx_graph.to_model(lambda film: {"p": jnp.sort(film.astype(jnp.float32), 1)}, 8, "test")


def test_what_no_output_needs_is_left_out_translated_or_not():
    def answer(film):
        x = film.astype(jnp.float32)
        jnp.sort(x, 1) @ jnp.ones((1, 7))
        return {"p": x + 1}

    model = onnx_graph.to_model(answer, 8, "test")
    assert [node.op_type for node in model.graph.node] == ["Cast", "Add", "Identity"]
    assert len(model.graph.initializer) == 1


def test_weights_that_no_file_holds_are_said(monkeypatch):
    monkeypatch.setattr(onnx_graph, "MOST", 2**8)
    with pytest.raises(UserError, match="a file of ONNX ends at 2 GiB"):
        onnx_graph.to_model(lambda film: {"p": film * jnp.full((8, 8, 64), 2.0)}, 8, "test")


def config_of(kind):
    """Of small networks: two peers, four groups (networks or branches), two tasks, bfloat16."""
    made = small_run.config(decoder=kind == "two tasks")
    if kind == "two tasks":
        made.scheme = ConfigDict({"name": "multitask", "balance": "fixed"})
    elif kind == "peers":
        made.scheme = ConfigDict({
            "name": "mutual", "networks": ("a", "b"), "order": "sequential", "peers": "mean",
            "kl_weight": 1.0, "temperature": 1.0, "kl_labels": "mean"})
        with made.unlocked():
            made.networks = ConfigDict({name: {
                "model": made.model.to_dict(), "optimizer": made.optimizer.to_dict(),
                "seed": number, "init_from": ""} for number, name in enumerate("ab")})
    elif kind in ("separate", "branches"):
        made.scheme = ConfigDict({
            "name": "grouped", "kind": kind, "groups": groups.CHESTXRAY14, "number": 4,
            "clustering": "cooccurrence", "workdir": "", "checkpoint": "best", "branch_width": 8})
    if kind in ("branches", "bfloat16"):
        made.model = ConfigDict({"name": "resnet18", "width": 8, "depths": (1, 1)})
    if kind == "bfloat16":
        with made.model.unlocked():
            made.model.dtype = "bfloat16"
    return made


@pytest.mark.parametrize("kind", ["peers", "separate", "branches", "two tasks", "bfloat16"])
def test_every_kind_of_run_is_one_file_with_its_maps(kind, tmp_path):
    own = sources.as_member(None, small_run.of(config_of(kind)))
    (name, *_) = own.networks
    path = tmp_path / "m.onnx"
    source = sources.of_run(own, name)
    assert export.write_onnx(path, [own], [name], source, maps=True) <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    films = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), dtype=np.uint8)
    found = session.run(["map", "probabilities"], {"film": films})
    logits = own.run.predict(own.run.states, jnp.asarray(films))[name]["logits"]
    np.testing.assert_allclose(found[1], jax.nn.sigmoid(logits.astype(jnp.float32)),
                               atol=2e-2 if kind == "bfloat16" else 1e-5)
    assert found[0].shape[:2] == (5, 14) and np.ptp(found[0], axis=(2, 3)).max() > 0


def test_several_runs_are_one_file(tmp_path):
    members = [sources.as_member(None, small_run.make(seed=seed)) for seed in (0, 1)]
    source = sources.of_ensemble(members)
    assert export.write_onnx(tmp_path / "m.onnx", members, ["create"] * 2, source) <= 1e-4


def test_the_file_and_what_lies_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: small_run.make())
    path = tmp_path / "m.onnx"
    export.main("none", str(path), format="onnx")
    assert "onnxruntime differs by" in capsys.readouterr().out
    beside = json.loads((tmp_path / "m.onnx.json").read_text())
    assert beside["opset"] == onnx_graph.OPSET and beside["bytes"] == path.stat().st_size
    assert beside["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert beside["checked"]["largest difference"] <= 1e-4 and len(beside["labels"]) == 14
    with pytest.raises(UserError, match="format=onnx ends in .onnx"):
        export.main("none", str(tmp_path / "m.cxrjax"), format="onnx")
    with pytest.raises(UserError, match="--with_resize is for --format=jax"):
        export.main("none", str(tmp_path / "n.onnx"), format="onnx", with_resize=True)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "cxrjax\[onnx\]"'):
        export.main("none", str(tmp_path / "n.onnx"), format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "resnet18", "densenet121", "convnext_tiny", "conformer_tiny", "vit_small", "bagnet", "resunet",
    "dinov2_small", "eva_x_tiny", "cross_stitch", "mtan",
])
def test_every_backbone(name, tmp_path):
    """With its maps, every variable moved from where it starts (heads start at nothing)."""
    made = experiment.base("phantom", name, 56 if "dino" in name else 64)
    made.dataset.update({"num_train": 4, "num_val": 4, "num_test": 4})
    run = small_run.of(made)
    rng = np.random.default_rng(0)
    states = jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape).astype(x.dtype) ** 2,
                          run.states)
    own = sources.as_member(None, dataclasses.replace(run, states=states))
    source = sources.of_run(own, own.networks[0])
    path = tmp_path / "m.onnx"
    assert export.write_onnx(path, [own], [own.networks[0]], source, maps=True) <= 1e-4
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        ["probabilities"], {"film": export.golden_film(made.dataset.image_size)})[0]
    assert np.ptp(found) > 1e-3
