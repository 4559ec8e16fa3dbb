"""The networks' layers against hand-computed numbers and slow references, and what they promise."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import convnext, densenet, resnet

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "convnext_tiny": 28_589_128,
    "conformer_tiny": 23_524_704,
    "conformer_small": 37_673_424,
}
TINY = {
    "resnet18": {"width": 8, "depths": (1, 1, 1)},
    "densenet121": {"width": 8, "growth": 4, "depths": (2, 1, 2)},
    "convnext_tiny": {"width": 8, "depths": (1, 1, 1)},
    "conformer_tiny": {"width": 8, "depth": 6, "embed_dim": 16, "heads": 2},
}
KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def filled(net: nn.Module, *inputs, seed: int = 1) -> dict:
    """Variables away from their initial zeros and ones, so that every parameter matters."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        noise = rng.standard_normal(x.shape)
        leaf = path[-1].key
        if leaf == "kernel":
            return np.float32(noise * np.prod(x.shape[:-1]) ** -0.5)
        return np.float32(leaf in ("scale", "var", "layer_scale")) + np.float32(0.1 * noise)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(lambda: net.init(KEY, *inputs)))


@functools.cache
def tiny(name: str) -> types.SimpleNamespace:
    """A small network of each family, its variables and its answers in both modes."""
    net = models.create(name, 3, **TINY[name])
    image = normal(2, 64, 64, 1)
    variables = filled(net, image)

    @jax.jit
    def judge(variables, image):
        return net.apply(variables, image), net.apply(variables, image, method="encode")

    @jax.jit
    def learn(variables, image):
        return net.apply(variables, image, train=True, mutable=["batch_stats"])

    out, maps = judge(variables, image)
    train_out, moved = learn(variables, image)
    return types.SimpleNamespace(
        net=net,
        image=image,
        variables=variables,
        judge=judge,
        out=out,
        maps=maps,
        train_out=train_out,
        moved=moved,
    )


def program(net: nn.Module, t: types.SimpleNamespace) -> str:
    """What the network computes in evaluation, as text."""
    return str(jax.make_jaxpr(net.apply)(t.variables, t.image))


def shapes(net: nn.Module, image: tuple[int, ...], method: str | None = None):
    def call(x):
        return net.init_with_output(KEY, x, method=method)[0]

    return jax.eval_shape(call, jax.ShapeDtypeStruct(image, jnp.float32))


# ---- the whole networks


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    init = functools.partial(models.create(name, 1000).init, KEY)
    tree = jax.eval_shape(init, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert sum(x.size for x in jax.tree.leaves(tree["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name", TINY)
def test_outputs(name):
    t = tiny(name)
    assert t.out["logits"].shape == (2, 3) and t.out["logits"].dtype == jnp.float32
    side = 64 // t.net.encoder.strides[-1]
    assert t.out["features"].shape == (2, side, side, t.net.encoder.channels[-1])
    moved = jax.tree.leaves(t.moved)
    assert bool(moved) == (name != "convnext_tiny")
    assert all(x.dtype == jnp.float32 for x in moved)
    if moved:
        assert np.abs(t.out["logits"] - t.train_out["logits"]).max() > 1e-3
    if name.startswith("conformer"):
        np.testing.assert_allclose(t.out["head_logits"].mean(0), t.out["logits"], rtol=1e-6)
        assert t.out["head_logits"].shape == (2, 2, 3)


@pytest.mark.parametrize("name", TINY)
def test_a_film_is_judged_alone_in_evaluation(name):
    t = tiny(name)
    other, _ = t.judge(t.variables, t.image.at[1].set(0.0))
    np.testing.assert_allclose(other["logits"][0], t.out["logits"][0], rtol=1e-5, atol=1e-5)
    assert np.abs(other["logits"][1] - t.out["logits"][1]).max() > 1e-3


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("name", [*TINY, "resnet50", "conformer_small"])
def test_encoder_maps_have_the_announced_strides_and_channels(name, small_stem):
    net = models.create(name, 2, small_stem=small_stem, **TINY.get(name, {}))
    maps = shapes(net, (1, 64, 96, 1), "encode")
    assert len(net.encoder.strides) == len(net.encoder.channels) == len(maps)
    for got, stride, channels in zip(maps, net.encoder.strides, net.encoder.channels):
        assert got.shape == (1, 64 // stride, 96 // stride, channels)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_small_stem_has_three_by_three_weights_and_no_pool(name):
    net = models.create(name, 2, small_stem=True)
    tree = jax.eval_shape(lambda: net.init(KEY, jnp.zeros((1, 28, 28, 1))))
    assert tree["params"]["encoder"]["stem"]["conv"]["kernel"].shape == (3, 3, 1, 64)
    assert shapes(net, (1, 28, 28, 1))["features"].shape[1:3] == (4 - (name[0] == "d"),) * 2


@pytest.mark.parametrize(
    "name, last",
    [
        ("resnet18", (8, 6)),
        ("resnet50", (8, 6)),
        ("densenet121", (7, 6)),
        ("convnext_tiny", (7, 5)),
    ],
)
def test_odd_sizes_round_as_torch_does(name, last):
    # (n + 2 p - k) // s + 1 along 225 and 190: padded windows round up, others down.
    assert shapes(models.create(name, 2), (1, 225, 190, 1))["features"].shape[1:3] == last


@pytest.mark.parametrize("small_stem, multiple", [(False, 16), (True, 4)])
def test_conformer_says_which_sizes_it_takes(small_stem, multiple):
    net = models.create("conformer_tiny", 2, small_stem=small_stem)
    with pytest.raises(UserError, match=f"multiples of {multiple}, not 225x190"):
        shapes(net, (1, 225, 190, 1))
    shapes(net, (1, 5 * multiple, 7 * multiple, 1))


def test_too_small_a_film_is_named():
    with pytest.raises(UserError, match="too small"):
        shapes(models.create("convnext_tiny", 2), (1, 16, 16, 1))


@pytest.mark.parametrize("name", TINY)
def test_classify_is_the_rest_of_the_network(name):
    t = tiny(name)
    logits = t.net.apply(t.variables, t.out["features"], method="classify")
    want = t.out["head_logits"][0] / 2 if "head_logits" in t.out else t.out["logits"]
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(t.maps[-1], t.out["features"], rtol=1e-5, atol=1e-5)


def test_conformers_last_map_enters_the_prediction_through_its_own_head_alone():
    # What lets Grad-CAM differentiate `classify`: no other path leads from there to the logits.
    t = tiny("conformer_tiny")
    last = t.net.encoder.depth

    def nudged(eps):
        def add(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            return (out[0] + eps, out[1]) if context.module.name == f"block{last}" else out

        with nn.intercept_methods(add):
            return t.net.apply(t.variables, t.image)["logits"].sum()

    features = t.out["features"]
    through_all = jax.jit(jax.grad(nudged))(jnp.zeros_like(features))
    through_head = jax.grad(lambda f: t.net.apply(t.variables, f, method="classify").sum())(
        features
    )
    np.testing.assert_allclose(through_all, through_head, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * ("e" not in n[:2])) for n in TINY]
)
def test_remat_changes_nothing_but_memory(name):
    options = {**TINY[name], "width": 4, **({"depths": (2, 1)} if name[-2:] != "ny" else {})}
    image, nets = normal(2, 32, 32, 1), {}
    for remat in (False, True):
        nets[remat] = models.create(name, 3, remat=remat, **options)
    start = filled(nets[False], image)

    def loss(params, net):
        variables = {**start, "params": params}
        out, moved = net.apply(variables, image, train=True, mutable=["batch_stats"])
        return jnp.square(out["logits"]).sum(), moved

    def run(net):
        return jax.jit(jax.grad(lambda p: loss(p, net), has_aux=True))(start["params"])

    jax.tree.map(
        # A bias that shifts all keys alike has no gradient but rounding.
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-3, atol=1e-5 + 1e-3 * np.abs(a).max()
        ),
        run(nets[False]),
        run(nets[True]),
    )


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_stays_close_and_keeps_float32_where_it_counts(name):
    t = tiny(name)
    net = models.create(name, 3, dtype="bfloat16", **TINY[name])
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(net.init, KEY, t.image))} == {
        jnp.dtype("float32")
    }
    out, maps = jax.jit(lambda v, x: (net.apply(v, x), net.apply(v, x, method="encode")))(
        t.variables, t.image
    )
    assert out["logits"].dtype == out["features"].dtype == jnp.float32
    assert all(m.dtype == jnp.bfloat16 for m in maps)
    gap = np.abs(out["features"] - t.out["features"]).max() / np.abs(t.out["features"]).max()
    assert 0 < gap < 0.05


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "conformer_tiny"])
def test_stochastic_depth_acts_in_training_alone(name):
    t = tiny(name)
    net = models.create(name, 3, drop_path=0.9, **TINY[name])
    assert program(net, t) == program(t.net, t)

    @jax.jit
    def answer(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return net.apply(t.variables, t.image, train=True, rngs=rngs)["logits"]

    same, again, other = answer(1), answer(1), answer(4)
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_dropout_acts_on_the_head_in_training_alone(name):
    t = tiny(name)
    net = models.create(name, 3, dropout=0.5, **TINY[name])
    assert program(net, t) == program(t.net, t)
    features = t.out["features"]
    answers = [
        net.apply(t.variables, features, True, method="classify", rngs={"dropout": key})
        for key in jax.random.split(KEY, 2)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


# ---- names and options


def test_unknown_names_and_options_are_errors_with_a_suggestion(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        models.create("resnet81", 2)
    with pytest.raises(UserError, match=r"no option 'drop_out'; did you mean 'dropout'\?.*remat"):
        models.create("resnet18", 2, drop_out=0.1)
    with pytest.raises(UserError, match="no option 'drop_path'"):
        models.create("densenet121", 2, drop_path=0.1)
    with pytest.raises(UserError, match="dtype must be one of float32, bfloat16, not 'fp16'"):
        models.create("convnext_tiny", 2, dtype="fp16")
    with pytest.raises(UserError, match="drop_path must be at least 0 and below 1"):
        models.create("conformer_tiny", 2, drop_path=1.0)
    with pytest.raises(UserError, match="num_classes"):
        models.create("resnet18", 0)
    with pytest.raises(UserError, match="multiple of 3"):
        models.create("conformer_small", 2, depth=10)


def test_a_network_of_the_users_own_by_dotted_path(monkeypatch, tmp_path):
    (tmp_path / "my_lab_nets.py").write_text(
        "from cxrjax.models import resnet\n"
        "def create(num_classes, width=4):\n"
        "    return resnet.resnet18(num_classes, width=width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = models.create("my_lab_nets:create", 5, width=8)
    assert (net.head.num_classes, net.encoder.width) == (5, 8)
    with pytest.raises(UserError, match="no option 'wide'; did you mean 'width'"):
        models.create("my_lab_nets:create", 5, wide=8)


# ---- blocks


def test_layer_scale_starts_blocks_near_the_identity():
    x = normal(1, 8, 8, 4)
    y, _ = jax.jit(convnext.Block().init_with_output, static_argnums=2)(KEY, x, False)
    assert 0 < np.abs(y - x).max() < 1e-4


def dense_stage(params, x):
    """A dense block by its definition: layers on the whole concatenation, in x's precision."""
    for i in range(1, len(params) + 1):
        p = params[f"layer{i}"]
        y = x
        for norm, conv in (("norm1", "conv1"), ("norm2", "conv2")):
            y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
            y = jnp.maximum(y * p[norm]["scale"] + p[norm]["bias"], 0)
            y = jax.lax.conv_general_dilated(
                y,
                p[conv]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        x = jnp.concatenate([x, y], -1)
    return x


@pytest.mark.parametrize("cpu, remat", [(True, False), (False, False), (True, True)])
def test_a_dense_stage_equals_its_definition(monkeypatch, cpu, remat):
    """Values, gradients and statistics, however the maps are joined, against float64."""
    monkeypatch.setattr(densenet.convolutions, "on_cpu", lambda: cpu)
    x, away = normal(2, 6, 6, 5), normal(2, 6, 6, 17, seed=1)
    stage = densenet.Stage(depth=3, growth=4, remat=remat)
    variables = filled(stage, x, True)

    @jax.jit
    def ours(params, x, away):
        def answer(params, x):
            tree = {**variables, "params": params}
            return stage.apply(tree, x, True, mutable=["batch_stats"])

        y, back, moved = jax.vjp(answer, params, x, has_aux=True)
        return y, back(away), moved

    got, derivatives, moved = ours(variables["params"], x, away)
    with jax.enable_x64(True):
        params, wide, away = jax.tree.map(
            lambda a: np.asarray(a, np.float64), (variables["params"], x, away)
        )
        want, back = jax.vjp(jax.jit(dense_stage), params, wide)
        want, wanted = jax.device_get((want, back(away)))
    assert want.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    for a, b in zip(jax.tree.leaves(derivatives), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
    mean = moved["batch_stats"]["layer3"]["norm1"]["mean"]
    before = variables["batch_stats"]["layer3"]["norm1"]["mean"]
    np.testing.assert_allclose(
        mean, 0.9 * before + 0.1 * want[..., :13].mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )


def test_a_dense_transition_equals_its_definition():
    """In float64: norm, ReLU, convolution at every position, then the mean of each 2x2."""
    x, away = normal(2, 7, 6, 5), normal(2, 3, 3, 2)  # the seventh row is left over
    block = densenet.Transition()
    variables = filled(block, x, True)

    def ours(params, x):
        y, _ = block.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return y

    def published(params, x):
        y = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        y = jnp.maximum(y * params["norm"]["scale"] + params["norm"]["bias"], 0)
        y = jnp.einsum("bhwc,co->bhwo", y, params["conv"]["kernel"][0, 0])[:, :6]
        return (y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 4

    params = variables["params"]
    got, back = jax.vjp(jax.jit(ours), params, x)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, away))
        want, wide_back = jax.vjp(jax.jit(published), *wide[:2])
        want, derivatives = jax.device_get((want, wide_back(wide[2])))
    assert want.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    for a, b in zip(jax.tree.leaves(back(away)), jax.tree.leaves(derivatives)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_the_stride_of_a_bottleneck_sits_in_its_3x3_convolution():
    block = resnet.Block(4, stride=2, bottleneck=True)
    _, caught = block.apply(
        filled(block, normal(1, 8, 8, 6), False),
        normal(1, 8, 8, 6),
        False,
        capture_intermediates=True,
    )
    sizes = {
        k: v["__call__"][0].shape[1] for k, v in caught["intermediates"].items() if "conv" in k
    }
    assert sizes == {"conv1": 8, "conv2": 4, "conv3": 4, "shortcut_conv": 4}


def test_a_cell_of_a_bagnet_sees_its_patch_and_nothing_else():
    net = models.create("bagnet", 3, widths=(8, 8, 8, 8), strides=(2, 2, 1, 1))
    image = normal(1, 64, 64, 1)
    variables = filled(net, image)

    def cell(image):
        return net.apply(variables, image)["features"][0, 8, 8].sum()

    seen = np.flatnonzero(np.abs(jax.jit(jax.grad(cell))(image)[0, :, :, 0]).sum(0))
    assert net.encoder.patch == 25 and seen.max() - seen.min() + 1 <= 25
    assert seen.min() <= 32 <= seen.max()
    assert shapes(net, image.shape)["features"].shape == (1, 16, 16, 8)
    assert models.create("bagnet", 3).encoder.patch == 57
    with pytest.raises(UserError, match="4 widths and 6 strides"):
        models.create("bagnet", 3, widths=(8, 8, 8, 8))
