"""Real state dicts of the libraries that others train with, against their own forward pass.

Slow, and only where the libraries are: pip install "cxrjax[test-weights]". Each case is an
architecture, the library that made it, and the way it was saved.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax import models
from cxrjax.models import weights
from cxrjax.models.weights import resample

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
KEY = jax.random.key(0)
CLASSES = 5


def torchvision(name, **options):
    library = pytest.importorskip("torchvision")
    return getattr(library.models, name)(num_classes=CLASSES, **options)


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, **{"num_classes": CLASSES, **options})


def eva_x(width, heads, **options):
    eva = pytest.importorskip("timm.models.eva")
    return eva.Eva(
        img_size=64, patch_size=16, embed_dim=width, depth=12, num_heads=heads, mlp_ratio=8 / 3,
        swiglu_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(14, 14), num_classes=CLASSES,
        **options,
    )


def monai(name, **options):
    nets = pytest.importorskip("monai").networks.nets
    return getattr(nets, name)(spatial_dims=2, **options)


def monai_resnet(name):
    return monai(name, n_input_channels=3, num_classes=CLASSES, conv1_t_stride=2)


def monai_densenet(name, channels=3):
    return monai(name, in_channels=channels, out_channels=CLASSES)


def smp(name):
    return pytest.importorskip("segmentation_models_pytorch").Unet(name, encoder_weights=None)


def xrv():
    return pytest.importorskip("torchxrayvision").models.DenseNet(
        num_classes=18, in_channels=1, weights=None, apply_sigmoid=False
    )


def transformers(kind, **options):
    library = pytest.importorskip("transformers")
    config = getattr(library, f"{kind[0]}Config")(num_labels=CLASSES, **options)
    return getattr(library, "".join(kind))(config)


def tokens(kind, patch, **options):
    return transformers(kind, hidden_size=384, num_hidden_layers=12, num_attention_heads=6,
                        image_size=4 * patch, patch_size=patch, **options)


def older_names(state):
    """Those that published files have, from the newer ones of transformers 5."""
    rules = (
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc1\.", r"\1encoder.layer.\2.intermediate.dense."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc2\.", r"\1encoder.layer.\2.output.dense."),
        (r"(^|\.)layers\.", r"\1encoder.layer."),
    )
    return {functools.reduce(lambda k, r: re.sub(*r, k), rules, k): v for k, v in state.items()}


def eva_02_names(state):
    rules = ((r"fc1_g", "w1"), (r"fc1_x", "w2"), (r"mlp\.fc1\.", "mlp.w12."),
             (r"mlp\.fc2", "mlp.w3"), (r"mlp\.norm", "mlp.ffn_ln"),
             (r"q_proj\.bias", "q_bias"), (r"v_proj\.bias", "v_bias"))
    out = {functools.reduce(lambda k, r: re.sub(*r, k), rules, k): v for k, v in state.items()}
    return {**out, "rope.freqs_cos": torch.ones(3, 4), "mask_token": torch.zeros(1, 1, 3)}


def under(prefix):
    return lambda state: {prefix + k: v for k, v in state.items()}


def in_(*keys):
    def wrap(state):
        for key in reversed(keys):
            state = {key: state, "epoch": 3}
        return state

    return wrap


def bfloat16(state):
    return {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in state.items()}


def with_more(**more):
    return lambda state: {**state, **more}


def headless(state):
    return {k: v for k, v in state.items() if not re.match(r"(fc|classifier|head)\.", k)}


POS = torch.ones(5)
OTHER = {"criterion.pos_weight": POS, "optimizer": {"state": {}}, "teacher.conv1.weight": POS}
# (our network, its options), the library's network, how it was saved, channels, what is compared.
CASES = {
    "resnet18 torchvision": ("resnet18", lambda: torchvision("resnet18"), []),
    "resnet34 torchvision module.": ("resnet34", lambda: torchvision("resnet34"),
                                     [under("module.")]),
    "resnet50 torchvision _orig_mod.": ("resnet50", lambda: torchvision("resnet50"),
                                        [under("_orig_mod.")]),
    "resnet101 torchvision state_dict: model.": (
        "resnet101", lambda: torchvision("resnet101"), [under("model."), in_("state_dict")]),
    "resnet18 torchvision lightning": (
        "resnet18", lambda: torchvision("resnet18"),
        [under("model.backbone."), with_more(**OTHER), in_("state_dict")]),
    "resnet18 timm": ("resnet18", lambda: timm("resnet18"), []),
    "resnet50 timm model_ema: module.": (
        "resnet50", lambda: timm("resnet50"), [under("module."), in_("model_ema")]),
    "resnet50 timm averaged": (
        "resnet50", lambda: timm("resnet50"),
        [under("module."), with_more(n_averaged=torch.tensor(3))]),
    "resnet18 MONAI": ("resnet18", lambda: monai_resnet("resnet18"), []),
    "resnet50 MONAI net.": ("resnet50", lambda: monai_resnet("resnet50"), [under("net.")]),
    "resnet18 smp": ("resnet18", lambda: smp("resnet18"), []),
    "resnet34 smp module.": ("resnet34", lambda: smp("resnet34"), [under("module.")]),
    "resnet50 smp model.": ("resnet50", lambda: smp("resnet50"), [under("model.")]),
    "resnet18 smp of timm": ("resnet18", lambda: smp("tu-resnet18"), []),
    "resnet50 transformers": (
        "resnet50", lambda: transformers(("ResNet", "ForImageClassification")), []),
    "densenet121 torchvision": ("densenet121", lambda: torchvision("densenet121"), []),
    "densenet121 torchvision old module.densenet121.": (
        "densenet121", lambda: torchvision("densenet121"),
        [lambda s: {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v
                    for k, v in s.items()}, under("module.densenet121.")]),
    "densenet169 torchvision net": ("densenet169", lambda: torchvision("densenet169"),
                                    [in_("net")]),
    "densenet121 timm backbone.": ("densenet121", lambda: timm("densenet121"),
                                   [under("backbone.")]),
    "densenet121 MONAI": ("densenet121", lambda: monai_densenet("DenseNet121"), []),
    "densenet121 MONAI 1 channel model_state": (
        "densenet121", lambda: monai_densenet("DenseNet121", 1), [in_("model_state")]),
    "densenet169 MONAI module.": ("densenet169", lambda: monai_densenet("DenseNet169"),
                                  [under("module.")]),
    "densenet121 torchxrayvision": ("densenet121", xrv, []),
    "densenet121 torchxrayvision op_threshs model.": (
        "densenet121", xrv, [with_more(op_threshs=torch.ones(18)), under("model.")]),
    "densenet121 smp": ("densenet121", lambda: smp("densenet121"), []),
    "convnext_tiny torchvision": ("convnext_tiny", lambda: torchvision("convnext_tiny"), []),
    "convnext_tiny timm": ("convnext_tiny", lambda: timm("convnext_tiny"), []),
    "convnext_small timm weights": ("convnext_small", lambda: timm("convnext_small"),
                                    [in_("weights")]),
    "convnext_tiny transformers": (
        "convnext_tiny", lambda: transformers(("ConvNext", "ForImageClassification")), []),
    "vit_base torchvision": ("vit_base", lambda: torchvision("vit_b_16", image_size=64), []),
    "vit_small timm": ("vit_small", lambda: timm("vit_small_patch16_224", img_size=64), []),
    "vit_small timm state_dict_ema: model.": (
        "vit_small", lambda: timm("vit_small_patch16_224", img_size=64),
        [under("model."), in_("checkpoint", "state_dict_ema")]),
    "vit_small timm bfloat16": ("vit_small", lambda: timm("vit_small_patch16_224", img_size=64),
                                [bfloat16]),
    "vit_small transformers": (
        "vit_small", lambda: tokens(("ViT", "ForImageClassification"), 16, intermediate_size=1536),
        []),
    "vit_small transformers older names module.": (
        "vit_small", lambda: tokens(("ViT", "ForImageClassification"), 16, intermediate_size=1536),
        [older_names, under("module.")]),
    "dinov2_small timm": ("dinov2_small",
                          lambda: timm("vit_small_patch14_dinov2", img_size=56), []),
    "dinov2_small timm registers": (
        ("dinov2_small", {"registers": 4}),
        lambda: timm("vit_small_patch14_reg4_dinov2", img_size=56), []),
    "dinov2_small transformers": ("dinov2_small", lambda: tokens(("Dinov2", "Model"), 14), []),
    "dinov2_small transformers older names backbone.": (
        "dinov2_small", lambda: tokens(("Dinov2", "Model"), 14), [older_names, under("backbone.")]),
    "dinov2_base transformers older names": (  # as RAD-DINO's are
        "dinov2_base", lambda: transformers(
            ("Dinov2", "Model"), hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
            image_size=56, patch_size=14), [older_names]),
    "dinov2_small transformers registers": (
        ("dinov2_small", {"registers": 4}), lambda: tokens(("Dinov2WithRegisters", "Model"), 14),
        []),
    "eva_x_tiny timm": ("eva_x_tiny", lambda: eva_x(192, 3), []),
    "eva_x_tiny EVA-02's names model": ("eva_x_tiny", lambda: eva_x(192, 3),
                                        [eva_02_names, in_("model")]),
    "eva_x_small timm module.": ("eva_x_small", lambda: eva_x(384, 6), [under("module.")]),
    "eva_x_base timm": ("eva_x_base", lambda: eva_x(768, 12, qkv_fused=False, scale_mlp=True), []),
    "eva_x_base EVA-02's names": (
        "eva_x_base", lambda: eva_x(768, 12, qkv_fused=False, scale_mlp=True), [eva_02_names]),
}


def randomised(network):
    """Every number away from its start, statistics of norms included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                if name.endswith("running_var"):
                    value.copy_(0.5 + noise.abs())
                elif value.ndim > 1 and "token" not in name and "pos" not in name:
                    value.copy_(noise * (1 / np.prod(value.shape[1:])) ** 0.5)
                else:
                    value.add_(0.1 * noise)
    return network.eval()


def theirs(network, image):
    """(what is compared, their answer)."""
    with torch.no_grad():
        if hasattr(network, "segmentation_head"):
            last = network.encoder(image)[-1]  # a DenseNet's before its last ReLU, others' behind
            return "map", torch.relu(last).permute(0, 2, 3, 1).numpy()
        out = network(image)
    if hasattr(out, "logits"):
        return "logits", out.logits.numpy()
    if hasattr(out, "last_hidden_state"):
        return "embed", out.last_hidden_state[:, 0].numpy()
    return "logits", out.numpy()


@functools.cache
def ours(name, classes, options):
    net = models.create(name, classes, **dict(options))
    return net, jax.jit(net.apply), jax.jit(functools.partial(net.apply, method="embed"))


@pytest.mark.parametrize("case", CASES)
def test_a_librarys_weights_give_the_librarys_answer(case):
    network, make, saved_as = CASES[case]
    name, options = network if isinstance(network, tuple) else (network, {})
    classes = 18 if "torchxrayvision" in case else CLASSES
    channels = 1 if "1 channel" in case or "torchxrayvision" in case else 3
    size = 56 if name.startswith("dinov2") else 64
    library = randomised(make())
    if "bfloat16" in case:
        library.load_state_dict(bfloat16(library.state_dict()))
    image = np.float32(np.random.default_rng(0).standard_normal((2, size, size, channels)))
    what, want = theirs(library, torch.tensor(image).permute(0, 3, 1, 2))
    state = dict(library.state_dict())
    for form in saved_as:
        state = form(state)

    net, apply, embed = ours(name, classes, tuple(options.items()))
    shapes = jax.eval_shape(net.init, KEY, jnp.zeros(image.shape))
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    reading = weights.read(name, state, fresh)
    assert network_in(reading.summary, name), reading.summary
    if what == "logits":
        assert not any("left as initialised" in note for note in reading.notes), reading.notes
        got = apply(reading.variables, image)["logits"]
    elif what == "embed":
        got = embed(reading.variables, image)
    else:
        got = apply(reading.variables, image)["features"]
    got = np.asarray(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def network_in(summary, name):
    return re.search(rf" {name}(_patch\d+)?, ", summary + ", ")


@pytest.mark.parametrize("old, new", [(14, 4), (16, 37), (37, 16), (14, 24)])
def test_position_embeddings_are_resampled_as_timm_does(old, new):
    layers = pytest.importorskip("timm.layers")
    embed = np.float32(np.random.default_rng(old).standard_normal((1, 1 + old * old, 6)))
    want = layers.resample_abs_pos_embed(torch.tensor(embed), [new, new]).numpy()
    got = resample.position_embeddings(embed, (new, new), 1)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max() + 1e-6)


@pytest.mark.parametrize("old, new", [(16, 14), (14, 16), (16, 8), (8, 16)])
def test_patch_kernels_are_resampled_as_timm_does(old, new):
    layers = pytest.importorskip("timm.layers")
    kernel = np.float32(np.random.default_rng(old).standard_normal((4, 3, old, old)))
    want = layers.resample_patch_embed(torch.tensor(kernel), [new, new]).numpy()
    got = resample.patch_kernel(kernel, (new, new))
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("make", [
    lambda: torchvision("vgg11"), lambda: torchvision("efficientnet_b0"),
    lambda: torchvision("swin_t"), lambda: torchvision("mobilenet_v2"),
    lambda: torchvision("resnext50_32x4d"), lambda: torchvision("wide_resnet50_2"),
    lambda: timm("resnet18d"), lambda: timm("resnetv2_50"), lambda: timm("deit3_small_patch16_224"),
    lambda: timm("beit_base_patch16_224"), lambda: timm("deit_tiny_distilled_patch16_224"),
    lambda: timm("seresnet50"),
])
def test_networks_of_other_kinds_are_refused_in_a_few_lines(make):
    state = make().state_dict()
    for name in ("resnet50", "densenet121", "convnext_tiny", "vit_small"):
        net = models.create(name, CLASSES)
        shapes = jax.eval_shape(net.init, KEY, jnp.zeros((1, 64, 64, 1)))
        with pytest.raises(ValueError) as error:
            weights.read(name, state, shapes, "config.init_from = FILE")
        assert len(str(error.value).splitlines()) <= 12
