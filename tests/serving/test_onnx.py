"""ONNX by the translation of primitives: onnxruntime answers as JAX does, or it is refused."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cxrjax.errors import UserError
from cxrjax.models import convolutions, create
from cxrjax.serving import export, onnx_graph, sources
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
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "cxrjax\[onnx\]"'):
        export.main("none", str(tmp_path / "n.onnx"), format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "resnet18", "densenet121", "convnext_tiny", "conformer_tiny", "vit_small", "bagnet", "resunet",
    "dinov2_small", "eva_x_tiny",
])
def test_every_backbone(name):
    size = 56 if "dino" in name else 64
    net = create(name, 3, **({"num_masks": 1} if name == "resunet" else {}))
    film = jnp.asarray(export.golden_film(size))
    variables = jax.jit(lambda: net.init(jax.random.key(0), jnp.zeros((1, size, size, 1)),
                                         train=False))()

    def answer(film):
        image = film.astype(jnp.float32) / 255
        return {"logits": net.apply(variables, image, train=False)["logits"]}

    found, right = both(answer, np.concatenate([film, film[:, ::-1]]), size)
    np.testing.assert_allclose(found["logits"], right["logits"], rtol=1e-4, atol=1e-4)
