"""Weights from torch: the published answers, and all that can be wrong said at once."""

import functools
import json
import logging
import pathlib
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import weights

KEY = jax.random.key(0)
NAMES = (
    "resnet18",
    "resnet50",
    "densenet121",
    "densenet169",
    "convnext_tiny",
    "conformer_tiny",
    "conformer_small",
)
QUICK = ("resnet18", "densenet121")
SIZES = {
    "resnet18": {"width": 4, "depths": (1, 2)},
    "resnet50": {"width": 4, "depths": (2, 1)},
    "densenet121": {"width": 4, "growth": 2, "depths": (2, 1)},
    "convnext_tiny": {"width": 4, "depths": (1, 2)},
    "conformer_tiny": {"width": 4, "depth": 6, "embed_dim": 8, "heads": 2},
}


def by_formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor `name` as the goldens' README fills it."""
    rng = np.random.default_rng(zlib.crc32(("cxrjax/" + name).encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return np.float32(0.5 + rng.random(shape))
    noise = rng.standard_normal(shape)
    if leaf in ("running_mean", "bias", "q_bias", "v_bias"):
        filled = 0.1 * noise
    elif leaf == "layer_scale" or (leaf == "gamma" and len(shape) == 1):
        filled = 0.1 + 0.02 * noise
    elif leaf in ("cls_token", "pos_embed", "reg_token", "mask_token", "position_embeddings"):
        filled = 0.02 * noise
    elif len(shape) == 1:
        filled = 1 + 0.1 * noise
    else:
        filled = noise * np.sqrt(1 / np.prod(shape[1:]))
    return np.float32(filled)


def golden_input(shape: tuple[int, ...] = (2, 224, 224, 3)) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(b"cxrjax/image"))
    return np.float32(rng.standard_normal(shape))


def shapes_of(name: str, classes: int = 3, channels: int = 1, **options):
    net = models.create(name, classes, **options)
    film = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    return net, jax.eval_shape(functools.partial(net.init, KEY), film)


def random_variables(name: str, seed: int = 0, **options):
    net, tree = shapes_of(name, **options)
    rng = np.random.default_rng(seed)
    return net, jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def relative(got, want) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


# ---- the published networks


@functools.cache
def published(goldens: pathlib.Path, name: str):
    listed = json.loads((goldens / f"{name}.state_dict.json").read_text())
    state = {k: by_formula(k, tuple(shape)) for k, shape in listed.items()}
    net, tree = shapes_of(name, 1000, 3)
    return net, weights.from_torch(name, state, tree), np.load(goldens / f"{name}.npz")


def logits_of(out: dict, golden, mode: str) -> list[tuple]:
    if "head_logits" in out:
        pairs = zip(out["head_logits"], ("conv", "trans"))
        return [(logits, golden[f"{mode}logits_{head}"]) for logits, head in pairs]
    return [(out["logits"], golden[f"{mode}logits"])]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_evaluation_answers_as_published(goldens, name):
    net, variables, golden = published(goldens, name)
    out, caught = jax.jit(lambda v, x: net.apply(v, x, train=False, capture_intermediates=True))(
        variables, golden_input()
    )
    for got, want in logits_of(out, golden, ""):
        assert relative(got, want) < 1e-4

    ours = {}
    for path, value in traverse_util.flatten_dict(caught["intermediates"]).items():
        module = weights.torch_name(name, "/".join(path[:-1]))
        if path[-1] == "__call__" and module is not None:
            ours[module] = value[0][0] if isinstance(value[0], tuple) else value[0]
    # torchvision applies the last ReLU in place, so that norm5's recorded output lies behind it.
    if "features.norm5" in ours:
        ours["features.norm5"] = out["features"]
    modules = [key.removeprefix("mean/") for key in golden.files if key.startswith("mean/")]
    assert len(modules) == 4
    for module in modules:
        b, c, h, w = golden[f"shape/{module}"]
        assert ours[module].shape == (b, h, w, c)
        assert relative(ours[module].mean((1, 2)), golden[f"mean/{module}"]) < 1e-3
        assert relative(ours[module].std((1, 2)), golden[f"std/{module}"]) < 1e-3


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "resnet18" else pytest.mark.slow) for n in NAMES]
)
def test_training_answers_as_published(goldens, name):
    net, variables, golden = published(goldens, name)
    out = jax.jit(lambda v, x: net.apply(v, x, train=True))(variables, golden_input())
    for got, want in logits_of(out, golden, "train_"):
        assert relative(got, want) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_torchs(goldens, name):
    listed = json.loads((goldens / f"{name}.state_dict.json").read_text())
    _, tree = shapes_of(name, 1000, 3)
    state = weights.to_torch(name, jax.tree.map(lambda x: np.zeros(x.shape, np.float32), tree))
    assert {k: list(v.shape) for k, v in state.items()} == listed


# ---- there and back


@pytest.mark.parametrize("name", SIZES)
def test_round_trip(name):
    net, variables = random_variables(name, **SIZES[name])
    _, other = random_variables(name, seed=1, **SIZES[name])
    back = weights.from_torch(name, weights.to_torch(name, variables), other)
    assert_same(back, variables)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(back))


def test_layouts_by_hand():
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    state = weights.to_torch("resnet18", variables)
    params = variables["params"]
    kernel = params["encoder"]["stage2"]["block1"]["conv1"]["kernel"]
    assert state["layer2.0.conv1.weight"].shape == (8, 4, 3, 3)
    assert state["layer2.0.conv1.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
    assert state["fc.weight"][1, 6] == params["head"]["logits"]["kernel"][6, 1]
    stats = variables["batch_stats"]["encoder"]["stage2"]["block2"]["norm2"]
    np.testing.assert_array_equal(state["layer2.1.bn2.running_var"], stats["var"])
    assert state["bn1.num_batches_tracked"].dtype == np.int64


def test_small_stem_round_trip_and_usual_stem(caplog):
    options = dict(SIZES["resnet18"], small_stem=True)
    _, variables = random_variables("resnet18", **options)
    _, other = random_variables("resnet18", seed=1, **options)
    assert_same(
        weights.from_torch("resnet18", weights.to_torch("resnet18", variables), other), variables
    )
    # Weights with the usual 7x7 stem: all but this one kernel.
    _, usual = random_variables("resnet18", seed=2, channels=3, **SIZES["resnet18"])
    with caplog.at_level(logging.WARNING):
        got = weights.from_torch("resnet18", weights.to_torch("resnet18", usual), other)
    assert "encoder/stem/conv/kernel" in caplog.text
    np.testing.assert_array_equal(
        got["params"]["encoder"]["stem"]["conv"]["kernel"],
        other["params"]["encoder"]["stem"]["conv"]["kernel"],
    )
    assert_same(got["params"]["encoder"]["stage1"], usual["params"]["encoder"]["stage1"])


# ---- forms that weights come in


def test_wrapped_prefixed_and_old_names():
    name, size = "densenet121", SIZES["densenet121"]
    _, variables = random_variables(name, **size)
    _, other = random_variables(name, seed=1, **size)
    state = weights.to_torch(name, variables)

    def old(key):
        for kind in ("norm", "conv"):
            for digit in "12":
                key = key.replace(f".{kind}{digit}.", f".{kind}.{digit}.")
        return key

    old_names = {old(k): v for k, v in state.items() if "num_batches_tracked" not in k}
    assert "features.denseblock1.denselayer2.norm.1.weight" in old_names
    for form in (
        old_names,
        {f"module.{k}": v for k, v in state.items()},
        {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in state.items()}},
        {"model": {f"module.densenet121.{k}": v for k, v in old_names.items()}},
    ):
        assert_same(weights.from_torch(name, form, other), variables)


def test_double_and_half_precision_become_float32():
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    for dtype in (np.float64, np.float16):
        state = {k: v.astype(dtype) for k, v in weights.to_torch("resnet18", variables).items()}
        got = weights.from_torch("resnet18", state, variables)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))


def test_a_gray_film_gives_what_its_three_fold_copy_gave():
    name, size = "resnet18", SIZES["resnet18"]
    color, variables = random_variables(name, channels=3, **size)
    gray, other = random_variables(name, seed=1, channels=1, **size)
    folded = weights.from_torch(name, weights.to_torch(name, variables), other)
    # Variances are positive in a real network.
    for tree in (variables, folded):
        tree["batch_stats"] = jax.tree.map(lambda x: 1 + abs(x), tree["batch_stats"])
    film = jax.random.normal(KEY, (2, 33, 31, 1))
    want = jax.jit(color.apply)(variables, jnp.repeat(film, 3, -1))["logits"]
    got = jax.jit(gray.apply)(folded, film)["logits"]
    assert relative(got, np.asarray(want)) < 1e-4


def test_another_number_of_classes_keeps_the_new_head_and_says_so(caplog):
    for name, head in (
        ("resnet18", ["logits"]),
        ("convnext_tiny", ["logits"]),
        ("conformer_tiny", ["conv_logits", "trans_logits"]),
    ):
        _, published = random_variables(name, classes=1000, **SIZES[name])
        _, other = random_variables(name, seed=1, classes=14, **SIZES[name])
        with caplog.at_level(logging.WARNING):
            got = weights.from_torch(name, weights.to_torch(name, published), other)
        for part in head:
            assert f"head/{part}/kernel" in caplog.text and f"head/{part}/bias" in caplog.text
            assert_same(got["params"]["head"][part], other["params"]["head"][part])
        assert_same(got["params"]["encoder"], published["params"]["encoder"])
        caplog.clear()


def test_parts_that_torch_does_not_have_stay_and_are_named(caplog):
    _, variables = random_variables("resnet50", **SIZES["resnet50"])
    _, other = random_variables("resnet50", seed=1, **SIZES["resnet50"])
    other["params"]["decoder"] = {"up1": {"kernel": np.ones((3, 3, 2, 2), np.float32)}}
    with caplog.at_level(logging.WARNING):
        got = weights.from_torch("resnet50", weights.to_torch("resnet50", variables), other)
    assert "decoder/up1/kernel" in caplog.text
    assert_same(got["params"]["decoder"], other["params"]["decoder"])
    assert_same(got["params"]["encoder"], variables["params"]["encoder"])


def test_nothing_is_said_where_all_fits(caplog):
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    with caplog.at_level(logging.WARNING):
        weights.from_torch("resnet18", weights.to_torch("resnet18", variables), variables)
    assert not caplog.records


# ---- faults


def test_all_faults_are_reported_together_and_variables_are_left_alone():
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    before = jax.tree.map(np.copy, variables)
    state = weights.to_torch("resnet18", variables)
    del state["layer1.0.conv2.weight"], state["bn1.running_mean"]
    state["layer2.1.conv1.weight"] = state["layer2.1.conv1.weight"][:, :, :1, :1]
    state["layer2.0.bn1.bias"] = np.full_like(state["layer2.0.bn1.bias"], np.nan)
    state["layer9.0.conv1.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        weights.from_torch("resnet18", state, variables)
    message = str(error.value)
    assert "missing: bn1.running_mean, layer1.0.conv2.weight" in message
    assert "left over: layer9.0.conv1.weight" in message
    assert "layer2.1.conv1.weight ((1, 1, 8, 8) in our layout, not (3, 3, 8, 8))" in message
    assert "layer2.0.bn1.bias (not finite)" in message
    assert_same(variables, before)


def test_a_stem_or_head_that_differs_otherwise_is_an_error():
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    for key, shape in (
        ("conv1.weight", (4, 1, 5, 5)),
        ("conv1.weight", (4, 2, 7, 7)),
        ("fc.weight", (3, 9)),
    ):
        state = dict(weights.to_torch("resnet18", variables), **{key: np.zeros(shape)})
        with pytest.raises(UserError, match=f"wrong: {key}"):
            weights.from_torch("resnet18", state, variables)


def test_unknown_name_is_an_error():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        weights.from_torch("resnet-18", {}, {"params": {}})
    with pytest.raises(UserError, match="known"):
        weights.to_torch("my_lab.nets:create", {"params": {"encoder": {"x": np.ones(1)}}})


# ---- files


def test_safetensors_file(tmp_path):
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    state = weights.to_torch("resnet18", variables)
    half = {k: v.astype(jnp.bfloat16) for k, v in state.items()}
    for name, tensors in (("full", state), ("half", half)):
        path = tmp_path / f"{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        got = weights.from_torch("resnet18", weights.load_state_dict(path), variables)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0 if name == "full" else 4e-3),
            got,
            variables,
        )


def test_torch_file(tmp_path):
    torch = pytest.importorskip("torch")
    _, variables = random_variables("resnet18", **SIZES["resnet18"])
    state = weights.to_torch("resnet18", variables)
    tensors = {f"module.{k}": torch.tensor(v) for k, v in state.items()}
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "state_dict": tensors}, path)
    assert_same(weights.from_torch("resnet18", weights.load_state_dict(path), variables), variables)
    assert_same(weights.from_torch("resnet18", tensors, variables), variables)
    torch.save({"code": pathlib.PurePosixPath("a")}, path)
    with pytest.raises(UserError, match="cannot be read as a file of tensors alone"):
        weights.load_state_dict(path)


def test_torch_file_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="weights.pth: this format needs torch"):
        weights.load_state_dict(path)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no weights at .*gone.pth"):
        weights.load_state_dict(tmp_path / "gone.pth")
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="weights.bin: weights are read from .safetensors"):
        weights.load_state_dict(tmp_path / "weights.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(UserError, match="broken.safetensors: cannot be read"):
        weights.load_state_dict(str(tmp_path / "broken.safetensors"))
