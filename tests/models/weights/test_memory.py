"""A network that starts from a file takes about the file's size of memory, not two or three."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from cxrjax import models
from cxrjax.models import weights
from cxrjax.training import warm_start

WIDE = {"width": 1024, "depth": 12, "heads": 16}  # 600 MB in float32

# Peak memory (MiB) of the imports, and of the whole.
_PEAK = """
import functools, json, pathlib, sys
import jax, jax.numpy as jnp
from cxrjax import models
from cxrjax.training import warm_start
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
path, labels, options = sys.argv[1], ["a", "b", "c"], json.loads(sys.argv[2])
net = models.create("vit_base", 3, **options)
jax.block_until_ready(jnp.zeros(3) + 1)
if path.endswith(".pth"):
    import torch
before = peak()
got = warm_start.begin(path, "vit_base", labels, functools.partial(net.init, train=False),
                       ({"params": jax.random.key(0)}, jnp.zeros((1, 224, 224, 1))))
jax.block_until_ready(got)
print(json.dumps([before, peak(), sum(x.nbytes for x in jax.tree.leaves(got)) / 2**20]))
"""


def shapes_of(**options):
    net = models.create("vit_base", 3, **options)
    return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 224, 224, 1)),
                                           train=False))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["float32", "float16 in shards", "pth"])
def test_a_large_file_is_never_in_memory_twice(tmp_path, form):
    flat = traverse_util.flatten_dict(shapes_of(**WIDE))
    tree = {k: np.full(v.shape, 0.01, np.float32) for k, v in flat.items()}
    state = weights.to_torch("vit_base", traverse_util.unflatten_dict(tree))
    path = tmp_path / "w.safetensors"
    if form == "pth":
        torch = pytest.importorskip("torch")
        path = tmp_path / "w.pth"
        torch.save({"state_dict": {k: torch.tensor(v) for k, v in state.items()}}, path)
    elif form == "float32":
        save_file(state, path)
    else:
        path = tmp_path
        for i in range(2):
            part = {k: v.astype(np.float16) for k, v in list(state.items())[i::2]}
            save_file(part, tmp_path / f"model-{i}.safetensors")
        index = {k: f"model-{i % 2}.safetensors" for i, k in enumerate(state)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path), json.dumps(WIDE)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    before, peak, size = json.loads(done.stdout.splitlines()[-1])
    assert size > 500
    print(f"{form}: {peak - before:,.0f} MiB beyond the imports for {size:,.0f} MiB of weights")
    assert peak - before < 1.3 * size


def test_what_the_file_lacks_is_initialised_to_the_bit_as_ever(tmp_path):
    net = models.create("resunet", 3, num_masks=1, encoder="resnet18")
    arguments = ({"params": jax.random.key(3)}, jnp.zeros((1, 64, 64, 1)))

    def init(rngs, image):
        return net.init(rngs, image, train=False)

    whole = traverse_util.flatten_dict(jax.jit(init)(*arguments))
    encoder = {k: v for k, v in whole.items() if k[1] == "encoder"}
    state = weights.to_torch("resnet18", traverse_util.unflatten_dict(encoder))
    save_file({k: (v + 1).astype(ml_dtypes.bfloat16) for k, v in state.items()
               if v.dtype == np.float32}, tmp_path / "w.safetensors")
    got = traverse_util.flatten_dict(warm_start.begin(
        tmp_path / "w.safetensors", "resnet18", ("a", "b", "c"), init, arguments, "resunet"))
    assert got.keys() == whole.keys()
    for key, ours in whole.items():
        if key[1] == "encoder":
            np.testing.assert_array_equal(
                got[key], (np.asarray(ours) + 1).astype(ml_dtypes.bfloat16).astype(np.float32))
        else:
            np.testing.assert_array_equal(got[key], ours)
