"""The transformers against a definition written out slowly in numpy, and what they promise."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import heads, tokens, weights
from tests.models.weights.test_weights import by_formula, golden_input, relative

KEY = jax.random.key(0)
SIZE = {"width": 16, "depth": 3, "heads": 2, "patch": 8}
NETWORKS = {
    "vit_small": {}, "dinov2_small": {"registers": 2}, "eva_x_small": {},
    "eva_x_base": {"attention_norm": True},
}
PARAMETERS = {
    ("vit_small", 1000): 22_050_664, ("vit_base", 1000): 86_567_656,
    ("eva_x_tiny", 14): 5_527_886, ("eva_x_small", 14): 21_672_590, ("eva_x_base", 14): 85_861_646,
}


@functools.cache
def made(name):
    net = models.create(name, 3, **SIZE, **NETWORKS[name])
    image = jnp.float32(np.random.default_rng(0).standard_normal((2, 24, 32, 1)))
    tree = jax.eval_shape(net.init, KEY, image)
    rng = np.random.default_rng(1)

    def fill(path, x):
        noise = 0.3 * rng.standard_normal(x.shape)
        return jnp.float32(noise + (path[-1].key in ("scale", "layer_scale1", "layer_scale2")))

    variables = jax.tree_util.tree_map_with_path(fill, tree)
    return net, variables, image, jax.jit(net.apply)(variables, image)


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x / 2**0.5))


def rotated(x, row, column, grid):
    """One token's channels, pair by pair, turned by its row and then its column."""
    out, half = x.copy(), len(x) // 2
    for start, position, cells in ((0, row, grid[0]), (half, column, grid[1])):
        for i in range(half // 2):
            angle = position * 14 / cells * 10000 ** (-i / (half // 2))
            a, b = x[start + 2 * i], x[start + 2 * i + 1]
            out[start + 2 * i] = a * np.cos(angle) - b * np.sin(angle)
            out[start + 2 * i + 1] = b * np.cos(angle) + a * np.sin(angle)
    return out


def attend(x, p, name, grid, front):
    n, d = x.shape
    if name.startswith("eva"):
        bias = np.concatenate([p["q_bias"], np.zeros(d), p["v_bias"]])
        qkv = x @ p["qkv"] + bias
    else:
        qkv = dense(x, p["qkv"])
    out, weights_of = np.zeros((n, d)), []
    size = d // SIZE["heads"]
    for head in range(SIZE["heads"]):
        q, k, v = (qkv[:, i * d + head * size : i * d + (head + 1) * size] for i in range(3))
        if name.startswith("eva"):
            q, k = q.copy(), k.copy()
            for t in range(front, n):
                row, column = divmod(t - front, grid[1])
                q[t], k[t] = (rotated(y[t], row, column, grid) for y in (q, k))
        scores = np.exp(q @ k.T / size**0.5)
        share = scores / scores.sum(1, keepdims=True)
        weights_of.append(share)
        out[:, head * size : (head + 1) * size] = share @ v
    if "norm" in p:
        out = norm(out, p["norm"])
    return dense(out, p["project"]), np.mean(weights_of, 0)


def slow(name, params, image):
    """(logits, rollout) of one film, token by token."""
    e = jax.tree.map(lambda a: np.asarray(a, np.float64), params["encoder"])
    head = jax.tree.map(lambda a: np.asarray(a, np.float64), params["head"])
    patch, grid = SIZE["patch"], (3, 4)
    patches = [np.einsum("ijc,ijcd->d", image[8 * r : 8 * r + patch, 8 * c : 8 * c + patch],
                         e["patch_embed"]["kernel"]) + e["patch_embed"]["bias"]
               for r in range(3) for c in range(4)]
    x = np.concatenate([e["cls_token"][0], np.stack(patches)]) + e["pos_embed"][0]
    if "reg_token" in e:
        x = np.concatenate([x[:1], e["reg_token"][0], x[1:]])
    front = len(x) - 12
    mixing = np.eye(len(x))
    for i in range(1, SIZE["depth"] + 1):
        p = e[f"block{i}"]
        y, share = attend(norm(x, p["norm1"]), p["attention"], name, grid, front)
        x = x + y * p.get("layer_scale1", 1)
        y = dense(norm(x, p["norm2"]), p["mlp"]["expand"])
        if name.startswith("eva"):
            gate, value = np.split(y, 2, -1)
            y = gate / (1 + np.exp(-gate)) * value
            y = norm(y, p["mlp"]["norm"]) if "norm" in p["mlp"] else y
        else:
            y = gelu(y)
        x = x + dense(y, p["mlp"]["project"]) * p.get("layer_scale2", 1)
        mixing = (0.5 * share + 0.5 * np.eye(len(x))) @ mixing
    if name.startswith("eva"):
        pooled, row = norm(x[front:].mean(0), head["norm"]), mixing[front:].mean(0)
    else:
        pooled, row = norm(x, e["norm"])[0], mixing[0]
    return dense(pooled, head["logits"]), row[front:].reshape(grid)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_transformer_is_its_definition_and_so_is_its_rollout(name):
    net, variables, image, out = made(name)
    for i in range(2):
        logits, rollout = slow(name, variables["params"], np.asarray(image[i], np.float64))
        np.testing.assert_allclose(out["logits"][i], logits, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(out["rollout"][i], rollout, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_lie_on_the_grid_and_the_logits_follow_from_them(name):
    net, variables, image, out = made(name)
    assert out["features"].shape == (2, 3, 4, 16) and out["features"].dtype == jnp.float32
    assert net.encoder.strides == (8,) and net.encoder.channels == (16,)
    logits, _, (head,), _ = heads.cut(
        lambda x: ((o := net.apply(variables, x))["logits"], [o["features"]], None), image)
    np.testing.assert_allclose(head(out["features"]), out["logits"], rtol=1e-4, atol=1e-4)
    assert np.abs(head(0 * out["features"]) - out["logits"]).max() > 1e-3
    vector = net.apply(variables, image, method="embed")
    again = net.apply(variables, vector[:, None, None], method="classify")
    np.testing.assert_allclose(again, out["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, classes", PARAMETERS)
def test_number_of_parameters(name, classes):
    init = functools.partial(models.create(name, classes).init, KEY)
    tree = jax.eval_shape(init, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert sum(x.size for x in jax.tree.leaves(tree["params"])) == PARAMETERS[name, classes]


def test_options_that_make_no_network_are_named():
    film = jnp.zeros((1, 30, 32, 1))
    with pytest.raises(UserError, match="multiples of 16, not 30x32"):
        jax.eval_shape(models.create("vit_small", 2).init, KEY, film)
    with pytest.raises(UserError, match="pool must be one of cls, mean"):
        models.create("vit_small", 2, pool="max")
    with pytest.raises(UserError, match="width 390 is no multiple"):
        models.create("eva_x_small", 2, width=390)


def test_positions_made_for_another_size_are_resampled_as_films_come():
    net = models.create("vit_small", 2, image_size=16, **SIZE)
    variables = jax.jit(net.init)(KEY, jnp.zeros((1, 16, 16, 1)))
    assert variables["params"]["encoder"]["pos_embed"].shape == (1, 5, 16)
    assert net.apply(variables, jnp.zeros((1, 32, 24, 1)))["features"].shape == (1, 4, 3, 16)


def test_remat_drop_path_and_bfloat16_where_they_belong():
    net, variables, image, out = made("eva_x_small")
    again = models.create("eva_x_small", 3, remat=True, drop_path=0.9, **SIZE)
    np.testing.assert_allclose(again.apply(variables, image)["logits"], out["logits"], rtol=1e-5)
    rngs = {"dropout": KEY}
    dropped = again.apply(variables, image, train=True, rngs=rngs)
    assert "rollout" not in dropped
    assert np.abs(dropped["logits"] - out["logits"]).max() > 1e-3
    half = models.create("eva_x_small", 3, dtype="bfloat16", **SIZE).apply(variables, image)
    assert half["logits"].dtype == half["features"].dtype == jnp.float32
    assert 0 < np.abs(half["features"] - out["features"]).max() < 0.5


@pytest.mark.parametrize("encoder, options", [
    ("vit_small", SIZE), ("dinov2_small", {**SIZE, "patch": 14}), ("eva_x_base", SIZE),
    ("convnext_small", {"width": 8, "depths": (1, 1, 1, 1)}),
])
def test_a_decoder_on_transformers_and_larger_networks(encoder, options):
    net = models.create("resunet", 3, encoder=encoder, num_masks=2, decoder_width=16, **options)
    film = jax.ShapeDtypeStruct((1, 56, 56, 1), jnp.float32)
    out, tree = jax.eval_shape(functools.partial(net.init_with_output, KEY), film)
    assert out["mask_logits"].shape == (1, 56, 56, 2) and out["logits"].shape == (1, 3)
    assert set(tree["params"]) == {"encoder", "head", "decoder"}
    plain = jax.eval_shape(models.create(encoder, 3, **options).init, KEY, film)["params"]
    assert jax.tree.structure(tree["params"]["encoder"]) == jax.tree.structure(plain["encoder"])


def test_roll_out_by_hand():
    weights_of = [np.array([[[1.0, 0.0], [1.0, 0.0]]]), np.array([[[0.0, 1.0], [0.5, 0.5]]])]
    # Halves with the identity: ((.5 .5), (.25 .75)) times ((1 0), (.5 .5)).
    share = tokens.roll_out([jnp.float32(w) for w in weights_of], np.float32([1, 0]))
    np.testing.assert_allclose(share, [[0.75, 0.25]])


GOLDENS = {
    "timm_convnext_tiny": ("convnext_tiny", 1000, 3),
    "torchvision_convnext_small": ("convnext_small", 1000, 3),
    "torchvision_convnext_base": ("convnext_base", 1000, 3),
    "torchxrayvision_densenet121": ("densenet121", 18, 1),
    "smp_unet_resnet18": ("resnet18", 14, 3),
    "timm_vit_small_patch16": ("vit_small", 1000, 3),
    "timm_vit_base_patch16": ("vit_base", 1000, 3),
    "timm_vit_small_patch14_dinov2": ("dinov2_small", 1000, 3),
    "timm_vit_base_patch14_dinov2": ("dinov2_base", 1000, 3),
    "transformers_dinov2_small": ("dinov2_small", 14, 3),
    "eva_x_small_patch16": ("eva_x_small", 14, 3),
    "eva_x_base_patch16": ("eva_x_base", 14, 3),
}


def module_of(path):
    """The name that a golden has for our block: "encoder/block3" -> "blocks.2"."""
    if path == "encoder/norm":
        return "norm"
    block = path.removeprefix("encoder/block")
    return f"blocks.{int(block) - 1}" if block.isdigit() else ""


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDENS)
def test_answers_are_the_published_ones_block_by_block(goldens, golden):
    name, classes, channels = GOLDENS[golden]
    listed = json.loads((goldens / f"{golden}.state_dict.json").read_text())
    state = {k: by_formula(k, tuple(shape)) for k, shape in listed.items()}
    net = models.create(name, classes)
    image = golden_input() if channels == 3 else golden_input((2, 224, 224, 1))
    shapes = jax.eval_shape(net.init, KEY, image)
    start = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    variables = weights.from_torch(name, state, start)
    want = np.load(goldens / f"{golden}.npz")
    out, caught = jax.jit(
        lambda v, x: net.apply(v, x, capture_intermediates=lambda m, _: len(m.path) == 2)
    )(variables, image)
    if golden == "smp_unet_resnet18":
        assert relative(out["features"].mean((1, 2)), want["mean/encoder.layer4"]) < 1e-4
        return
    if golden == "transformers_dinov2_small":
        vector = jax.jit(lambda v, x: net.apply(v, x, method="embed"))(variables, image)
        assert relative(vector, want["logits"]) < 1e-4
        return
    assert relative(out["logits"], want["logits"]) < 1e-4
    seen = 0
    for place, value in caught["intermediates"].get("encoder", {}).items():
        module, answer = module_of(f"encoder/{place}"), value["__call__"][0]
        if module and f"mean/{module}" in want:
            answer = answer[0] if isinstance(answer, tuple) else answer
            assert relative(answer.mean(1), want[f"mean/{module}"]) < 1e-3
            assert relative(answer.std(1), want[f"std/{module}"]) < 1e-3
            seen += 1
    assert seen >= 12 or "patch" not in golden
