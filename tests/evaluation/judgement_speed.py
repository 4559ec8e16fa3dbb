"""How long a judgement of the official test set takes, and its memory.

    python -m tests.evaluation.judgement_speed

Predictions of 25,596 films x 14 labels are drawn from a seed, of 2,797 patients with sex, age and
view; figures with 1,000 resamples, pictures, tables and pages are made of them as `evaluate` does.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import tempfile
import time

import numpy as np

from cxrjax.data.sets.base import Films, describe
from cxrjax.data.sets.chestxray14 import LABELS
from cxrjax.evaluation import cohort, judge, report
from cxrjax.metrics import bootstrap, subgroups

TEST, VAL, PATIENTS = 25_596, 11_212, 2_797


def draw(rng, films):
    """(labels f32[films, 14], logits) of findings between 0.3% and 25%."""
    share = np.geomspace(0.003, 0.25, len(LABELS))
    labels = (rng.random((films, len(LABELS))) < share).astype(np.float32)
    logits = 1.5 * labels + rng.normal(size=labels.shape) + np.log(share)
    return labels, logits.astype(np.float32)


def measure(folder, films=TEST, val=VAL, patients=PATIENTS):
    """{'wall', 'processor' (seconds), 'MB' (the process's peak)}, and each part's seconds."""
    rng = np.random.default_rng(0)
    labels, logits = draw(rng, films)
    val_labels, val_logits = draw(rng, val)
    whose = rng.integers(0, patients, films + val)
    table = {"id": np.array([f"{i:08d}_000.png" for i in range(films + val)]), "patient": whose,
             "sex": rng.choice(["F", "M"], films + val), "view": rng.choice(["PA", "AP"],
                                                                           films + val),
             "age": rng.integers(1, 95, films + val).astype(np.float32),
             "label": np.concatenate([labels, val_labels])}
    splits = {"train": np.arange(0), "val": np.arange(films, films + val),
              "test": np.arange(films)}
    info = describe("drawn", "official", LABELS, table["label"], splits)
    opened = Films(np.zeros((films + val, 2), np.uint8), table, splits, LABELS, "multilabel",
                   info=info)
    began, parts = (time.perf_counter(), time.process_time()), {}
    counts = bootstrap.resample(films, seed=0, cluster=whose[:films])
    groups = subgroups.groups({c: table[c][:films] for c in ("sex", "age", "view")})
    network = judge.judge_network(labels, logits, val_labels, val_logits, LABELS, "multilabel",
                                  whose[:films], groups=groups, counts=counts)
    parts["figures"] = time.perf_counter() - began[0]
    result = {
        "run": {"workdir": "w", "checkpoint": "best", "step": 1, "epoch": 1.0, "seed": 0,
                "trained_with": {}, "image_size": 224, "init_from": ""},
        "labels": list(LABELS), "task": "multilabel", "split": "test", "split_name": "official",
        "protocol": "drawn", "films": films, "intervals": "bootstrap over patients",
        "networks": {"net": network}, "cohort": cohort.describe(opened), "films shown": True,
    }
    report.write(folder, result, table["id"][:films].tolist(), labels, {"net": logits}, (),
                 {"patient": whose[:films]}, counts=counts,
                 show=lambda i: np.full((224, 224), i % 256, np.uint8))
    wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    parts["report"] = wall - parts["figures"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall, "processor": processor, "MB": peak}, parts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        found, parts = measure(pathlib.Path(output or folder))
    print(", ".join(f"{key} {value:.1f}" for key, value in {**found, **parts}.items()))


if __name__ == "__main__":
    main()
