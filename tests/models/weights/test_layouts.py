"""Other libraries' names, prefixes and containers; what is said of them; and that damage is said.

The names are written here a second time, by hand and the other way round: from the reference's to
the library's. Networks are tiny, so that a case costs milliseconds.
"""

import functools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.models.weights import files, recognise, resample

KEY = jax.random.key(0)
TOKENS = {"width": 8, "depth": 3, "heads": 2}
SIZES = {
    "resnet18": {"width": 4, "depths": (1, 2)},
    "densenet121": {"width": 4, "growth": 2, "depths": (2, 1)},
    "convnext_tiny": {"width": 4, "depths": (1, 2)},
    "vit_small": TOKENS,
    "dinov2_small": {**TOKENS, "patch": 16},
    "eva_x_small": TOKENS,
    "eva_x_base": TOKENS,
}


@functools.cache
def shapes(name, classes=5, channels=3, size=64, **options):
    net = models.create(name, classes, **{**SIZES[name], **options})
    film = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(functools.partial(net.init, KEY), film)


def filled(name, seed=0, **kind):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), shapes(name, **kind))


def renamed(*rules):
    def rename(state):
        return {functools.reduce(lambda k, rule: re.sub(*rule, k), rules, k): v
                for k, v in state.items()}

    return rename


def apart(names):
    """Queries, keys and values each for themselves, under the library's names."""

    def split(state):
        out = {}
        for key, value in state.items():
            block, found, leaf = key.partition("attn.qkv.")
            if found:
                out.update({f"{block}{n}.{leaf}": v for n, v in zip(names, np.split(value, 3))})
            else:
                out[key] = value
        return out

    return split


HF = renamed(
    (r"^(cls_token)$", r"embeddings.\1"), (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^norm\.", "layernorm."),
    (r"attn\.proj", "attention.output.dense"), (r"^blocks\.", "encoder.layer."),
    (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"), (r"^head\.", "classifier."),
)
OLDER = apart([f"attention.attention.{n}" for n in ("query", "key", "value")])
NEWER = apart([f"attention.{n}_proj" for n in "qkv"])
HF_VIT = renamed(
    (r"norm1", "layernorm_before"), (r"norm2", "layernorm_after"),
    (r"mlp\.fc1", "intermediate.dense"), (r"(layer\.\d+)\.mlp\.fc2", r"\1.output.dense"),
)
CASES = [
    ("resnet18", "torchvision", []),
    ("resnet18", "children", [renamed(
        (r"^conv1", "0"), (r"^bn1", "1"), (r"^layer(\d)", lambda m: str(int(m[1]) + 3)),
        (r"^fc", "9"))]),
    ("resnet18", "transformers", [renamed(
        (r"^conv1\.", "embedder.embedder.convolution."), (r"^fc", "classifier.1"),
        (r"^bn1\.", "embedder.embedder.normalization."),
        (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
        (r"(layer\d\.\d)\.bn(\d)\.", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.normalization."),
        (r"downsample\.0", "shortcut.convolution"), (r"downsample\.1", "shortcut.normalization"),
        (r"^layer(\d)\.(\d)", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}"))]),
    ("densenet121", "torchvision", []),
    ("densenet121", "old", [renamed((r"(denselayer\d\.(?:norm|conv))(\d)", r"\1.\2"))]),
    ("densenet121", "features alone", [renamed((r"^features\.", ""))]),
    ("densenet121", "MONAI", [renamed((r"(denselayer\d)\.", r"\1.layers."),
                                      (r"^classifier", "class_layers.out"))]),
    ("convnext_tiny", "torchvision", []),
    ("convnext_tiny", "timm", [renamed(
        (r"^features\.0\.(\d)", r"stem.\1"),
        (r"^features\.([246])\.(\d)\.", lambda m: f"stages.{int(m[1]) // 2}.downsample.{m[2]}."),
        (r"^features\.([1357])\.(\d+)", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}"),
        (r"block\.0", "conv_dw"), (r"block\.2", "norm"), (r"block\.3", "mlp.fc1"),
        (r"block\.5", "mlp.fc2"), (r"layer_scale", "gamma"), (r"classifier\.0", "head.norm"),
        (r"classifier\.2", "head.fc"))]),
    ("convnext_tiny", "authors", [renamed(
        (r"^features\.([0246])\.(\d)\.", lambda m: f"downsample_layers.{int(m[1]) // 2}.{m[2]}."),
        (r"^features\.([1357])\.(\d+)", lambda m: f"stages.{int(m[1]) // 2}.{m[2]}"),
        (r"block\.0", "dwconv"), (r"block\.2", "norm"), (r"block\.3", "pwconv1"),
        (r"block\.5", "pwconv2"), (r"layer_scale", "gamma"), (r"classifier\.0", "norm"),
        (r"classifier\.2", "head"))]),
    ("vit_small", "timm", []),
    ("vit_small", "torchvision", [renamed(
        (r"^cls_token", "class_token"), (r"^pos_embed", "encoder.pos_embedding"),
        (r"^patch_embed\.proj", "conv_proj"), (r"^norm\.", "encoder.ln."),
        (r"^blocks\.", "encoder.layers.encoder_layer_"), (r"\.norm", ".ln_"),
        (r"attn\.qkv\.", "self_attention.in_proj_"), (r"attn\.proj", "self_attention.out_proj"),
        (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.3"), (r"^head", "heads.head"))]),
    ("vit_small", "transformers", [OLDER, HF, HF_VIT]),
    ("vit_small", "transformers, newer names", [
        NEWER, HF, HF_VIT, renamed((r"attention\.output\.dense", "attention.o_proj"),
                                   (r"intermediate\.dense", "mlp.fc1"),
                                   (r"output\.dense", "mlp.fc2"),
                                   (r"encoder\.layer", "layers"))]),
    ("dinov2_small", "timm", []),
    ("dinov2_small", "chunks", [renamed((r"^blocks\.", "blocks.0."))]),
    ("dinov2_small", "transformers", [OLDER, HF]),
    ("dinov2_small", "transformers, newer names", [
        NEWER, HF, renamed((r"attention\.output\.dense", "attention.o_proj"))]),
    ("eva_x_small", "timm", []),
    ("eva_x_small", "EVA-02's names", [renamed((r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))]),
    ("eva_x_base", "timm", []),
    ("eva_x_base", "EVA-02's names", [renamed(
        (r"fc1_g", "w1"), (r"fc1_x", "w2"), (r"fc2", "w3"), (r"mlp\.norm", "mlp.ffn_ln"),
        (r"([qv])_proj\.bias", r"\1_bias"))]),
]
PREFIXES = ("", "module.", "_orig_mod.", "model.backbone.", "net.encoder.0.")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def foreign(name, forms, prefix="", **kind):
    state = functools.reduce(lambda s, form: form(s), forms,
                             weights.to_torch(name, filled(name, **kind)))
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("name, library, forms", CASES, ids=[f"{n} {w}" for n, w, _ in CASES])
def test_every_layout_under_every_prefix_gives_the_same_arrays(name, library, forms):
    for prefix in PREFIXES:
        got = weights.read(name, foreign(name, forms, prefix), filled(name, seed=1))
        same(got.variables, filled(name))
        assert not got.notes and "5 outputs" in got.summary
        assert (f"prefix {prefix[:-1]}." in got.summary) == bool(prefix)


@pytest.mark.parametrize("golden, said", [
    ("timm_vit_small_patch16", "timm vit_small_patch16, 1000 outputs"),
    ("timm_vit_small_patch14_dinov2", "timm dinov2_small_patch14, 1000 outputs"),
    ("transformers_dinov2_small", "transformers dinov2_small_patch14, no head"),
    ("eva_x_base_patch16", "EVA-X eva_x_base_patch16, 14 outputs"),
    ("torchxrayvision_densenet121", "torchxrayvision densenet121, 18 outputs"),
    ("torchvision_convnext_small", "torchvision convnext_small, 1000 outputs"),
    ("timm_convnext_tiny", "timm convnext_tiny, 1000 outputs"),
    ("resnet50", "torchvision resnet50, 1000 outputs"),
    ("densenet169", "torchvision densenet169, 1000 outputs"),
])
def test_the_line_says_library_network_outputs_and_prefix(goldens, golden, said):
    listed = json.loads((goldens / f"{golden}.state_dict.json").read_text())
    # Names and shapes of the published networks; no numbers are made.
    state = {f"model_ema.{k}": np.broadcast_to(np.float32(0), shape)
             for k, shape in listed.items()}
    found = recognise.recognise({"state_dict": state})
    assert recognise.in_words(found) == f"{said}, prefix model_ema. in state_dict"


def test_what_is_no_part_of_the_network_is_set_aside_and_named():
    state = foreign("resnet18", [], "model.")
    extra = np.ones(3, np.float32)
    state |= {"criterion.pos_weight": extra, "model.op_threshs": extra, "teacher.conv1.weight":
              extra, "n_averaged": np.int64(3), "decoder.up.weight": extra}
    given = {"epoch": 3, "optimizer": {"state": {0: {}}}, "state_dict": state}
    got = weights.read("resnet18", given, filled("resnet18", seed=1))
    same(got.variables, filled("resnet18"))
    (note,) = got.notes
    for name in ("criterion.pos_weight", "op_threshs", "teacher.conv1.weight", "n_averaged",
                 "decoder.up.weight", "epoch", "optimizer"):
        assert name in note


def test_what_lies_inside_the_network_is_not_set_aside_whatever_it_is_called():
    _, _, forms = next(c for c in CASES if c[:2] == ("dinov2_small", "transformers"))
    place = "embeddings.patch_embeddings.projection."
    state = foreign("dinov2_small", forms) | {f"{place}extra": np.ones(3, np.float32)}
    start = filled("dinov2_small", seed=1)
    with pytest.raises(UserError, match=f"left over: {place}extra"):
        weights.read("dinov2_small", state, start)
    state[f"{place}op_threshs"] = state.pop(f"{place}extra")
    assert "op_threshs" in weights.read("dinov2_small", state, start).notes[0]


def test_of_two_copies_the_averaged_one_is_taken_and_a_teacher_is_not():
    mine = foreign("resnet18", [])
    other = {k: 0 * v for k, v in mine.items()}
    start = filled("resnet18", seed=1)
    for given in ({"model": other, "model_ema": mine},
                  {**{f"model.{k}": v for k, v in other.items()},
                   **{f"ema.{k}": v for k, v in mine.items()}},
                  {"teacher": other, "student": mine},
                  {**{f"encoder_k.{k}": v for k, v in other.items()},
                   **{f"encoder_q.{k}": v for k, v in mine.items()}}):
        got = weights.read("resnet18", given, start)
        same(got.variables, filled("resnet18"))
        assert any("set aside" in note for note in got.notes)


@pytest.mark.parametrize("name, head", [
    ("resnet18", r"fc\."), ("densenet121", r"classifier\."), ("vit_small", r"head\."),
    ("convnext_tiny", r"classifier\.2\."), ("eva_x_small", r"(head|fc_norm)\."),
])
def test_a_file_without_a_head_leaves_the_head_as_initialised(name, head):
    state = {k: v for k, v in foreign(name, [], "encoder.").items()
             if not re.match(rf"encoder\.{head}", k)}
    start = filled(name, seed=1)
    got = weights.read(name, state, start)
    same(got.variables["params"]["encoder"], filled(name)["params"]["encoder"])
    same(got.variables["params"]["head"]["logits"], start["params"]["head"]["logits"])
    assert "no head" in got.summary and "head/logits/kernel" in got.notes[-1]


@pytest.mark.parametrize("inside, beside", [
    ("fc.1.", None), ("head.", None), (None, "classifier."), (None, "head.fc."),
])
def test_a_head_of_another_name_or_beside_the_network_is_found(inside, beside):
    state = foreign("resnet18", [])
    head = {k: state.pop(k) for k in ("fc.weight", "fc.bias")}
    state = {f"backbone.{k}": v for k, v in state.items()}
    place = beside if inside is None else f"backbone.{inside}"
    state |= {place + k.removeprefix("fc."): v for k, v in head.items()}
    got = weights.read("resnet18", state, filled("resnet18", seed=1))
    same(got.variables, filled("resnet18"))


def test_a_head_of_several_layers_is_set_aside():
    state = foreign("resnet18", [])
    del state["fc.weight"], state["fc.bias"]
    state |= {"fc.0.weight": np.ones((7, 8), np.float32), "fc.0.bias": np.ones(7, np.float32),
              "fc.2.weight": np.ones((5, 7), np.float32), "fc.2.bias": np.ones(5, np.float32)}
    start = filled("resnet18", seed=1)
    got = weights.read("resnet18", state, start)
    same(got.variables["params"]["head"], start["params"]["head"])
    assert "fc.* (4)" in got.notes[0]


def test_a_stem_for_one_channel_in_a_network_of_three():
    state = foreign("resnet18", [], channels=1)
    got = weights.read("resnet18", state, filled("resnet18", seed=1))
    stem = got.variables["params"]["encoder"]["stem"]["conv"]["kernel"]
    want = filled("resnet18", channels=1)["params"]["encoder"]["stem"]["conv"]["kernel"]
    np.testing.assert_allclose(stem.sum(2, keepdims=True), want, rtol=1e-6)
    np.testing.assert_allclose(stem[:, :, 0], stem[:, :, 2])
    assert "a third each" in got.notes[0]


# ---- another size


def slow_cubic(line, new):
    """Bicubic with antialiasing of one line, written as its definition is."""
    old, out = len(line), []
    scale = old / new
    for i in range(new):
        center, width = (i + 0.5) * scale - 0.5, max(scale, 1)
        total = norm = 0.0
        for j in range(old):
            x = abs(j - center) / width
            w = (1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else
                 -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0)
            total, norm = total + w * line[j], norm + w
        out.append(total / norm)
    return np.array(out)


@pytest.mark.parametrize("old, new", [(4, 7), (7, 4), (5, 5)])
def test_a_resized_line_is_its_definition(old, new):
    line = np.random.default_rng(old).standard_normal(old)
    np.testing.assert_allclose(resample.cubic_matrix(old, new) @ line, slow_cubic(line, new))


def test_a_patch_kernel_answers_alike_on_films_resized_like_it():
    # Enlarging loses nothing, so that the pseudo-inverse undoes it exactly.
    rng = np.random.default_rng(0)
    kernel, patch = rng.standard_normal((2, 1, 4, 4)), rng.standard_normal((4, 4))
    larger = resample.patch_kernel(np.float32(kernel), (6, 6))
    grow = resample.cubic_matrix(4, 6)
    np.testing.assert_allclose(
        np.einsum("ocij,ij->o", larger, grow @ patch @ grow.T),
        np.einsum("ocij,ij->o", kernel, patch), rtol=1e-4, atol=1e-5)


def test_position_embeddings_and_patches_of_another_size():
    start = filled("vit_small", seed=1, size=96, patch=8)
    got = weights.read("vit_small", foreign("vit_small", []), start)
    assert any("position embeddings resampled from 4x4 to 12x12" in n for n in got.notes)
    assert any("patches resampled from 16x16 to 8x8" in n for n in got.notes)
    embed = got.variables["params"]["encoder"]["pos_embed"]
    theirs = filled("vit_small")["params"]["encoder"]["pos_embed"]
    np.testing.assert_array_equal(embed[:, 0], theirs[:, 0])
    column = slow_cubic(theirs[0, 1:].reshape(4, 4, 8)[:, 0, 0], 12)
    row = [slow_cubic(r, 12) for r in theirs[0, 1:].reshape(4, 4, 8)[..., 0]]
    grid = embed[0, 1:].reshape(12, 12, 8)[..., 0]
    np.testing.assert_allclose(grid[:, 0], slow_cubic([r[0] for r in row], 12), rtol=1e-4,
                               atol=1e-5)
    assert column.shape == (12,)


# ---- damage


def damaged(rng):
    """A broken or foreign state dict for `name`, and what was done to it."""
    name, _, forms = CASES[rng.integers(len(CASES))]
    state = foreign(name, forms, PREFIXES[rng.integers(len(PREFIXES))])
    keys = [k for k in state if "num_batches" not in k]
    heads = r"(fc|classifier|head|class_layers|heads|9|fc_norm|norm|layernorm|lm_head|ln)\."
    body = [k for k in keys if not re.search(rf"(^|\.){heads}", k)]
    key = body[rng.integers(len(body))]
    way = rng.choice(["lost", "renamed", "transposed", "half", "dtype", "nan", "halves", "other",
                      "junk", "twice"])
    if way == "lost":
        del state[key]
    elif way == "renamed":
        state[f"{key}x"] = state.pop(key)
    elif way == "transposed":
        # An axis of one changes nothing: the numbers lie as they did.
        square = [k for k in body if state[k].ndim >= 2 and len({1, *state[k].shape[:2]}) == 3]
        key = square[rng.integers(len(square))]
        state[key] = np.swapaxes(state[key], 0, 1)
    elif way == "half":
        key = next(k for k in body if state[k].shape and state[k].shape[0] > 1)
        state[key] = state[key][: len(state[key]) // 2]
    elif way == "dtype":
        state[key] = state[key].astype(rng.choice(["int32", "complex64", "bool", "uint8", "U3"]))
    elif way == "nan":
        state[key] = np.full_like(state[key], rng.choice([np.nan, np.inf]))
    elif way == "halves":
        for k in rng.choice(keys, len(keys) // 2, replace=False):
            del state[k]
        state.pop(key, None)
    elif way == "other":
        others = [n for n in SIZES if n.split("_")[0] != name.split("_")[0]]
        name = others[rng.integers(len(others))]
    elif way == "junk":
        state = {f"{rng.integers(9)}.{'x' * int(rng.integers(1, 5000))}.weight":
                 rng.standard_normal((2, 3)) for _ in range(rng.integers(0, 40))}
    else:
        state[f"{key.rpartition('.')[0]}.extra.weight"] = state[key]
    return name, str(way), state


def check_damage(count, seed):
    rng = np.random.default_rng(seed)
    ways = {}
    for _ in range(count):
        name, way, state = damaged(rng)
        start = filled(name, seed=1)
        with pytest.raises(UserError) as error:
            weights.read(name, state, start, "config.init_from = some/file.pth")
        lines = str(error.value).splitlines()
        assert len(lines) <= 12 and len(str(error.value)) < 2500, str(error.value)
        assert lines[0].startswith("config.init_from = some/file.pth: ")
        assert lines[1].strip().startswith("it looks like: ")
        same(start, filled(name, seed=1))
        ways[way] = ways.get(way, 0) + 1
    return ways


def test_damaged_and_foreign_dicts_are_one_short_error_each():
    assert sum(check_damage(20, seed=5).values()) == 20


@pytest.mark.slow
def test_five_hundred_damaged_and_foreign_dicts():
    ways = check_damage(500, seed=0)
    print(ways)
    assert sum(ways.values()) == 500 and len(ways) == 10


def test_an_error_names_what_it_looked_like_the_nearest_names_and_what_to_do():
    state = foreign("resnet18", [], "module.")
    state["module.layer1.0.convtwo.weight"] = state.pop("module.layer1.0.conv2.weight")
    with pytest.raises(UserError) as error:
        weights.read("resnet18", state, filled("resnet18", seed=1), "config.init_from = w.pth")
    text = str(error.value)
    assert "looks like: torchvision a ResNet of (1, 2) blocks" in text and "prefix module." in text
    assert "layer1.0.conv2.weight ~ layer1.0.convtwo.weight" in text
    assert "layer1.0.convtwo.weight ~ layer1.0.conv2.weight" in text
    with pytest.raises(UserError, match="set --config.model.pool=mean"):
        weights.read("vit_small", foreign("vit_small", [], pool="mean"), filled("vit_small"))
    with pytest.raises(UserError, match="it norms inside its attention"):
        weights.read("eva_x_small", foreign("eva_x_small", [], attention_norm=True),
                     filled("eva_x_small"))


# ---- files


def test_npz_and_shards_are_known_by_content(tmp_path):
    state = foreign("resnet18", [])
    np.savez(tmp_path / "weights.bin", **state)
    (tmp_path / "weights.bin.npz").rename(tmp_path / "weights.bin")
    got = weights.read("resnet18", weights.load_state_dict(tmp_path / "weights.bin"),
                       filled("resnet18", seed=1))
    same(got.variables, filled("resnet18"))

    parts = [dict(list(state.items())[i::2]) for i in range(2)]
    for i, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{i}.safetensors")
    index = {"weight_map": {k: f"model-{i}.safetensors" for i in range(2) for k in parts[i]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        got = weights.read("resnet18", weights.load_state_dict(path), filled("resnet18", seed=1))
        same(got.variables, filled("resnet18"))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match="the shard model-1.safetensors is missing"):
        weights.load_state_dict(tmp_path)
    index["weight_map"]["fc.bias"] = "../model-0.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="does not lie beside the index"):
        weights.load_state_dict(tmp_path)


def test_tensors_are_read_when_they_are_asked_for(tmp_path):
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "w.safetensors")
    stored = weights.load_state_dict(tmp_path / "w.safetensors")["a"]
    assert isinstance(stored, files.Stored) and stored.shape == (2, 3)
    np.testing.assert_array_equal(np.asarray(stored), [[0, 1, 2], [3, 4, 5]])


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


LIES = {
    "longer than the file": struct.pack("<Q", 2**40) + b"{}" + b" " * 20,
    "no JSON": safetensors(b"{nonsense, and more of it}"),
    "too many numbers": safetensors(
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "another length": safetensors(
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"),
    "negative": safetensors(
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, b"12345678"),
    "over each other": safetensors(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, b"12345678"),
    "a strange type": safetensors(
        {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"12345678"),
    "an entry of no shape": safetensors({"a": 3}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_file_that_lies_about_its_sizes(tmp_path, lie):
    (tmp_path / "w.safetensors").write_bytes(LIES[lie])
    with pytest.raises(UserError, match="w.safetensors: cannot be read as safetensors"):
        weights.load_state_dict(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content, said", [
    (b"\x89HDF\r\n\x1a\n" + b" " * 20, "HDF5"), (b"<!DOCTYPE html>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1", "Git LFS"), (b"", "empty"),
    (b'{"architecture": "resnet18"}', "weight_map"),
])
def test_what_is_no_weights_file_is_named(tmp_path, content, said):
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(UserError, match=said):
        weights.load_state_dict(tmp_path / "w.bin")


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{"x": 1}], object))
    with pytest.raises(UserError, match="holds Python objects"):
        weights.load_state_dict(tmp_path / "w.npz")


def test_without_torch_the_remedy_is_said(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError) as error:
        weights.load_state_dict(tmp_path / "w.ckpt")
    assert "needs torch" in str(error.value) and "safetensors.torch" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# ---- the scale


def test_the_scale_comes_with_the_layout_or_the_config_beside_the_file(tmp_path):
    def scale(name, **kind):
        save_file(foreign(name, [], **kind), tmp_path / "model.safetensors")
        return weights.scale_of(tmp_path / "model.safetensors")

    assert scale("resnet18")[:2] == (0.449, 0.226)
    assert scale("densenet121", channels=1, classes=18) == (0.5, 1 / 2048, "torchxrayvision")
    assert scale("eva_x_small")[:2] == (0.49185243, 0.28509309)
    assert scale("vit_small") is None
    timm = {"architecture": "x", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25, 0.5, 0.75]}}
    (tmp_path / "config.json").write_text(json.dumps(timm))
    assert scale("vit_small") == (0.5, 0.5, "config.json")
    (tmp_path / "config.json").write_text("[]")
    hub = {"image_mean": [0.53], "image_std": [0.26], "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(hub))
    assert scale("vit_small") == (0.53, 0.26, "preprocessor_config.json")
