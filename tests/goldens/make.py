"""Makes a golden of one of timm's vision transformers, by the rule in README.md.

    python tests/goldens/make.py vit_base_patch14_dinov2        # needs torch and timm
    python tests/goldens/make.py vit_small_patch14_dinov2 --check

The first writes timm_NAME.npz and timm_NAME.state_dict.json; with --check what would be written is
held against the files that are there, and the largest difference is printed.
"""

import argparse
import json
import pathlib
import zlib

import numpy as np
import timm
import torch

FOLDER = pathlib.Path(__file__).parent
FEW = ("cls_token", "pos_embed", "reg_token")


def filled(name, shape):
    rng = np.random.default_rng(zlib.crc32(f"cxrjax/{name}".encode()))
    noise, leaf = rng.standard_normal(shape), name.rpartition(".")[2]
    if leaf in FEW:
        noise = 0.02 * noise
    elif leaf == "gamma":
        noise = 0.1 + 0.02 * noise
    elif leaf == "bias":
        noise = 0.1 * noise
    elif len(shape) == 1:
        noise = 1 + 0.1 * noise
    else:
        noise = noise * np.sqrt(1 / np.prod(shape[1:]))
    return torch.from_numpy(np.float32(noise))


def golden(name):
    """({tensor: shape}, arrays) of the network at 224 pixels with 1,000 classes."""
    net = timm.create_model(name, img_size=224, num_classes=1000).eval()
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    net.load_state_dict({key: filled(key, tuple(shape)) for key, shape in shapes.items()})
    arrays = {}

    def watch(module, _, out):
        key, out = names[module], out.detach().numpy()
        arrays[f"mean/{key}"], arrays[f"std/{key}"] = out.mean(1), out.std(1)
        arrays[f"shape/{key}"] = np.array(out.shape)

    named = {"patch_embed": net.patch_embed, "norm": net.norm,
             **{f"blocks.{i}": block for i, block in enumerate(net.blocks)}}
    names = {module: key for key, module in named.items()}
    for module in named.values():
        module.register_forward_hook(watch)
    image = np.random.default_rng(zlib.crc32(b"cxrjax/image")).standard_normal((2, 224, 224, 3))
    with torch.no_grad():
        arrays["logits"] = net(torch.from_numpy(np.float32(image)).permute(0, 3, 1, 2)).numpy()
    return shapes, arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    shapes, arrays = golden(flags.name)
    table, pair = FOLDER / f"timm_{flags.name}.state_dict.json", FOLDER / f"timm_{flags.name}.npz"
    if flags.check:
        there = np.load(pair)
        assert json.loads(table.read_text()) == shapes and set(arrays) <= set(there.files)
        print(max(float(np.abs(there[key] - value).max()) for key, value in arrays.items()))
    else:
        table.write_text(json.dumps(shapes) + "\n")
        np.savez_compressed(pair, **arrays)
