"""Prints the table of docs/export.md: what is exported, beside `predict`'s own program.

    python -m venv alone && alone/bin/pip install jax flatbuffers onnxruntime
    python -m tests.serving.export_table --alone=alone/bin/python [--only=NAME] > table.md

Every network is trained for a few steps on synthetic films by the command line, exported in both
formats, and asked of films that it has not seen, by the environment that holds nothing else. One
process at a time computes; the times are the least of `TURNS`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from cxrjax import tables
from cxrjax.data.sets.phantom.dataset import render
from cxrjax.serving import sources

SIZE, FILMS, BATCH, TURNS = 64, 32, 8, 7
PHANTOM = "phantom:{},size=64"
# Row -> (config, further flags).
ROWS = {
    "ResNet-18": PHANTOM.format("resnet18"),
    "DenseNet-121": PHANTOM.format("densenet121"),
    "ConvNeXt-T": PHANTOM.format("convnext_tiny"),
    "Conformer-tiny": PHANTOM.format("conformer_tiny"),
    "ViT-S": PHANTOM.format("vit_small"),
    "two ResNet-18 that taught each other":
        "chestxray14_mutual:resnet18,resnet18,data=phantom,size=64",
    "four label groups, ResNet-18": "chestxray14_grouped:manual,data=phantom,size=64",
    "two tasks, ResNet-UNet": "phantom:resunet,size=64",
}
SHORT = ("--config.dataset.num_train=64", "--config.dataset.num_val=32",
         "--config.dataset.num_test=32", "--config.batch_size=16", "--config.train_for=6 steps")

# Run by the other environment: the answers to the films, and the time for one.
_ALONE = """
import sys, json, time, zipfile
import numpy as np
path, films, out, batch, turns = sys.argv[1:4] + [int(x) for x in sys.argv[4:]]
films = np.load(films)
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answer = lambda x: session.run(["probabilities"], {"film": x})[0]
else:
    import jax, jax.export
    with zipfile.ZipFile(path) as z:
        model = jax.export.deserialize(bytearray(z.read("model.stablehlo")))
    call = jax.jit(model.call)
    answer = lambda x: np.asarray(call(x)["probabilities"])
found = np.concatenate([answer(films[i : i + batch]) for i in range(0, len(films), batch)])
np.save(out, found)
times = []
for _ in range(turns):
    start = time.perf_counter()
    answer(films[:batch])
    times.append(time.perf_counter() - start)
print(json.dumps(min(times) / batch * 1e3))
"""


def call(*flags):
    """cxrjax by its command line, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "cxrjax", *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(flags)}\n{done.stdout}{done.stderr}")
    print(done.stdout.splitlines()[-1], file=sys.stderr)


def ours(workdir, films):
    """(probabilities, milliseconds a film) of `predict`'s program."""
    source = sources.of_run(own := sources.member(workdir), own.networks[0])
    name = source.networks[0]

    def answer(batch):
        return source.finish(source.start([batch]), len(batch))[name].probabilities

    found = np.concatenate([answer(films[i : i + BATCH]) for i in range(0, len(films), BATCH)])
    times = []
    for _ in range(TURNS):
        start = time.perf_counter()
        answer(films[:BATCH])
        times.append(time.perf_counter() - start)
    return found, min(times) / BATCH * 1e3


def alone(python, path, films, folder):
    """(probabilities, milliseconds a film) of a file, by the other environment."""
    out = folder / "out.npy"
    np.save(folder / "films.npy", films)
    done = subprocess.run(
        [python, "-c", _ALONE, str(path), str(folder / "films.npy"), str(out), str(BATCH),
         str(TURNS)], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        sys.exit(done.stderr)
    return np.load(out), float(done.stdout.splitlines()[-1])


def row(title, config, python, folder):
    workdir = folder / "run"
    call("--mode=train", f"--config={config}", f"--workdir={workdir}", *SHORT)
    films = np.stack([render(7, i, SIZE)["image"] for i in range(FILMS)])
    found, milliseconds = ours(str(workdir), films)
    cells = [title, f"{np.ptp(found, axis=0).max():.2f}", f"{milliseconds:.2f}"]
    for suffix, kind in ((".cxrjax", "jax"), (".onnx", "onnx")):
        path = folder / f"model{suffix}"
        call("--mode=export", f"--workdir={workdir}", f"--output={path}", f"--format={kind}")
        theirs, milliseconds = alone(python, path, films, folder)
        cells += [f"{path.stat().st_size / 2**20:.1f}", f"{abs(theirs - found).max():.0e}",
                  f"{milliseconds:.2f}"]
    return cells


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--alone", required=True)
    parser.add_argument("--only", default="")
    flags = parser.parse_args()
    rows = []
    for title, config in ROWS.items():
        if flags.only in title:
            with tempfile.TemporaryDirectory() as place:
                rows.append(row(title, config, flags.alone, pathlib.Path(place)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    titles = ["run", "range", "here, ms", ".cxrjax, MB", "difference", "ms", ".onnx, MB",
              "difference", "ms"]
    print("\n".join(tables.table(titles, rows, set(range(1, 9)))))
