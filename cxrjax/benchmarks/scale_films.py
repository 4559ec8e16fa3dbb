"""A raw folder of ChestX-ray14's layout and of any size: few films under many names."""

from __future__ import annotations

import csv
import os
import pathlib
import shutil

import numpy as np
from PIL import Image

from cxrjax.data.sets.chestxray14 import LABELS
from cxrjax.data.sets.phantom.dataset import render

FILMS = 112_120
PATIENTS, TEST, VAL = 30_805 / FILMS, 25_596 / FILMS, 11_212 / FILMS  # of ChestX-ray14
# Share of ChestX-ray14's films with each finding, in the order of LABELS.
PREVALENCE = (.103, .025, .119, .177, .052, .056, .013, .047, .042, .021, .022, .015, .030, .002)
DRAWN = {256: 256, 1024: 32}  # distinct films of each size


def make(folder: pathlib.Path, films: int, side: int, seed: int = 0) -> pathlib.Path:
    """A raw folder of `films` names in ChestX-ray14's layout; what is there already is kept.

    The names follow NIH's (patient, film), patients do not cross the lists, and the number of
    distinct contents is that of DRAWN.
    """
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    images, drawn = folder / "images", folder / "drawn"
    for place in (images, drawn):
        place.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    count = min(DRAWN[side], films)
    for i in range(count):
        Image.fromarray(render(seed, i, side)["image"][..., 0]).save(drawn / f"{i}.png")
    # Every patient has a film, the others are dealt out: some have dozens, as in the public set.
    patients = max(1, round(films * PATIENTS))
    weights = rng.gamma(0.6, size=patients)
    dealt = rng.multinomial(films - patients, weights / weights.sum()) + 1
    patient = np.repeat(np.arange(patients), dealt)
    number = np.arange(films) - np.repeat(np.cumsum(dealt) - dealt, dealt)
    names = [f"{p + 1:08d}_{n:03d}.png" for p, n in zip(patient, number)]
    positive = rng.random((films, len(LABELS))) < PREVALENCE
    age, sex = rng.integers(5, 95, patients), rng.choice(["M", "F"], patients)
    views = rng.choice(["PA", "AP"], films, p=[.6, .4])
    # Whole patients, the last ones first to the test list.
    held = patient >= patients - round(patients * TEST)
    tuned = ~held & (patient >= patients - round(patients * (TEST + VAL)))
    # Each list has drawings of its own: one film in two splits would be a film seen in training.
    third = count // 3
    drawing = np.arange(films) % third + third * np.where(held, 2, np.where(tuned, 1, 0))
    with (folder / "Data_Entry_2017.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
                      "Patient Gender", "View Position", "OriginalImage[Width", "Height]",
                      "OriginalImagePixelSpacing[x", "y]"])
        for i, name in enumerate(names):
            os.link(drawn / f"{drawing[i]}.png", images / name)
            found = "|".join(label for label, yes in zip(LABELS, positive[i]) if yes)
            p = patient[i]
            out.writerow([name, found or "No Finding", number[i], p + 1, age[p], sex[p], views[i],
                          side, side, 0.143, 0.143])
    for list_name, members in (("train_val_list", ~held), ("test_list", held),
                               ("official_val_list", tuned)):
        lines = [name for name, here in zip(names, members) if here]
        (folder / f"{list_name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "complete").touch()
    return folder
