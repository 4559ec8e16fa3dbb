"""Phantom: synthetic frontal chest films made on the fly from (seed, index). Nothing to download.

A formula for every organ gives the water along each beam; the film is developed from that. The
fourteen findings of ChestX-ray14 each have a sign of their own (`_phantom_signs`), several may be
on one film, and findings that go together in patients go together here. A patient has several
films: the same anatomy, another exposure, position and breath, and findings that come and go. A
film of another size shows the same scene, up to the grain of the noise.

Every film is computed from its own random streams, so films can be made in any order, by any number
of processes, and one finding can be taken off a film with all else unchanged. The films are for
testing and demonstration; figures reached on them say nothing about patients.
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from scipy.special import ndtr, ndtri

from cxrjax.data.sets.base import SPLITS, Account, Films
from cxrjax.data.sets.phantom.anatomy import Anatomy, breathe, sample_patient, sample_pose
from cxrjax.data.sets.phantom.artifacts import add_artifacts
from cxrjax.data.sets.phantom.film import Film
from cxrjax.data.sets.phantom.signs import SIGNS
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)
TASK = "multilabel"
MASKS = ("lungs",)
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "num_train": 4000,
    "num_val": 500,
    "num_test": 1000,
    "prevalence": 0.12,  # of a finding, averaged over the fourteen
    "artifacts": 0.0,  # share of films with bright artefacts
}

Box = tuple[str, str, tuple[float, float, float, float]]

# How often each finding is seen, relative to the mean.
_COMMON = np.array([1.2, 0.9, 1.3, 1.3, 1.0, 1.1, 0.9, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.7])
# What the findings have in common: being ill at all, a failing heart, an infection, worn lungs.
_FACTORS = np.array([
    # At  Ca   Ef   In   Ma   No   Pn   Pt   Co   Ed   Em   Fi   PT   He
    [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3],
    [0.3, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0],
    [0.2, 0.0, 0.3, 0.5, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.4, 0.4, 0.0, 0.4, 0.0, 0.0, 0.4, 0.4, 0.3, 0.0],
])
# How much of each finding is the patient's rather than the day's.
_LASTING = np.array([0.3, 0.8, 0.4, 0.3, 0.7, 0.7, 0.2, 0.3, 0.3, 0.4, 0.9, 0.9, 0.8, 0.9])

# Films of one patient follow one another within a block of eight.
_BLOCK = 8
_FAMILIES = (
    (1, 1, 1, 1, 1, 3), (1, 1, 2, 4), (1, 2, 5), (1, 1, 1, 2, 3), (2, 2, 4), (1, 1, 6), (3, 5),
    (1, 1, 1, 1, 4),
)
# Far apart, so that the test films stay the same when there are more films to train on.
_START = {"train": 0, "val": 10_000_000, "test": 20_000_000}

_FAMILY, _PATIENT, _ILL, _TODAY, _FILM, _TEXTURE, _NOISE, _ARTIFACT, _SIGN = range(9)


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@functools.lru_cache(maxsize=4096)
def _family(seed: int, block: int) -> tuple[int, ...]:
    """First film of the patient, for each film of a block."""
    sizes = _FAMILIES[_rng(seed, _FAMILY, block).integers(len(_FAMILIES))]
    starts = np.repeat(np.cumsum((0, *sizes[:-1])), sizes) + block * _BLOCK
    return tuple(int(s) for s in starts)


def patient_of(seed: int, index: int) -> tuple[int, int]:
    """(patient, follow-up number) of a film. A patient is named by the index of its first film."""
    patient = _family(seed, index // _BLOCK)[index % _BLOCK]
    return patient, index - patient


def film_id(seed: int, index: int) -> str:
    """'<seed>_<patient>_<follow-up>'."""
    patient, followup = patient_of(seed, index)
    return f"{seed}_{patient:08d}_{followup:03d}"


@functools.lru_cache(maxsize=256)
def _patient(seed: int, patient: int) -> Anatomy:
    return sample_patient(_rng(seed, _PATIENT, patient))


def findings_of(
    seed: int, index: int, prevalence: float = DEFAULTS["prevalence"]
) -> tuple[Float32[np.ndarray, " 14"], str]:
    """Labels f32[14] and view ('PA' or 'AP') of a film.

    A finding is there when a normal variable, part shared with related findings and with the other
    films of the patient, passes the quantile of its prevalence; so each finding keeps its
    prevalence exactly. Views are AP more often the iller the patient.
    """
    patient, _ = patient_of(seed, index)
    count = len(_FACTORS) + len(LABELS)
    lasting = _rng(seed, _ILL, patient).standard_normal(count)
    today = _rng(seed, _TODAY, index)
    passing = today.standard_normal(count)
    own = np.sqrt(_LASTING) * lasting[4:] + np.sqrt(1 - _LASTING) * passing[4:]
    shared = np.sqrt(0.5) * (lasting[:4] + passing[:4])
    z = shared @ _FACTORS + np.sqrt(1 - np.sum(np.square(_FACTORS), axis=0)) * own
    label = (z > -ndtri(prevalence * _COMMON)).astype(np.float32)
    view = "AP" if today.random() < ndtr(-0.8 + 0.5 * shared[0]) else "PA"
    return label, view


def _scene(seed: int, index: int, size: int, label: np.ndarray, view: str):
    """The film with its findings painted on, before it is developed, and their outlines."""
    patient, _ = patient_of(seed, index)
    rng = _rng(seed, _FILM, index)
    pose = sample_pose(rng, view == "AP")
    anatomy = breathe(_patient(seed, patient), rng, view == "AP")
    paints = []
    for k in np.flatnonzero(label):
        anatomy, paint = SIGNS[k](_rng(seed, _SIGN, index, int(k)), anatomy)
        paints.append((LABELS[k], paint))
    film = Film(anatomy, pose, size)
    boxes = []
    for name, paint in paints:
        for outline in paint(film):
            corners = film.to_film(outline)
            low, high = corners.min(axis=0).clip(0, 1), corners.max(axis=0).clip(0, 1)
            boxes.append((name, tuple(float(x) for x in (*low, *high))))
    return film, boxes


def render(
    seed: int,
    index: int,
    size: int = 256,
    *,
    findings: Collection[str] | None = None,
    prevalence: float = DEFAULTS["prevalence"],
    artifacts: float = DEFAULTS["artifacts"],
) -> dict[str, Any]:
    """One film, a pure function of its arguments.

    Args:
      seed: of the whole data set.
      index: of the film; nearby indices may be the same patient (`patient_of`).
      size: height and width in pixels.
      findings: names out of LABELS to show instead of those drawn for this film. Each finding
        looks the same whatever others there are, and everything else stays as it was.
      prevalence: mean prevalence of the fourteen findings.
      artifacts: probability of bright artefacts (pacemaker, line or tube, side letter).

    Returns:
      {image: u8[size,size,1], mask: u8[size,size,1], label: f32[14], boxes: [(finding, (x0, y0, x1,
      y1) in fractions of the film)], id, patient, view}. The mask is 1 on the lung: heart, pleural
      fluid, pleural air and pleural rind are left out, opacities within the lung are left in. A
      finding in several places, in both lungs say, has several boxes.

    Raises:
      UserError: a name in `findings` that is none of the labels.
    """
    label, view = findings_of(seed, index, prevalence)
    if findings is not None:
        for name in findings:
            if name not in LABELS:
                raise UserError(f"no finding {name!r}" + suggest(name, LABELS))
        label = np.array([name in findings for name in LABELS], np.float32)
    film, boxes = _scene(seed, index, size, label, view)
    gray = film.develop(_rng(seed, _NOISE, index), _rng(seed, _TEXTURE, index))
    if artifacts > 0:
        rng = _rng(seed, _ARTIFACT, index)
        if rng.random() < artifacts:
            gray = add_artifacts(rng, film, gray)
    image = np.minimum(np.maximum(np.rint(gray), 0.0), 255.0).astype(np.uint8)
    return {
        "image": image[..., None],
        "mask": film.lung_mask()[..., None],
        "label": label,
        "boxes": boxes,
        "id": film_id(seed, index),
        "patient": patient_of(seed, index)[0],
        "view": view,
    }


class FilmSource:
    """Random access to records that are rendered when they are asked for."""

    def __init__(
        self, indices: np.ndarray, size: int, seed: int, prevalence: float, artifacts: float
    ):
        self._indices, self._size = np.asarray(indices), size
        self._seed, self._prevalence, self._artifacts = seed, prevalence, artifacts

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        film = render(
            self._seed, int(self._indices[position]), self._size,
            prevalence=self._prevalence, artifacts=self._artifacts,
        )
        record = {key: film[key] for key in ("image", "mask", "label", "id")}
        return {**record, "has_mask": True}

    def __repr__(self) -> str:
        return f"FilmSource({len(self)} films of {self._size} pixels, seed {self._seed})"


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    merged = {"image_size": 64, **DEFAULTS, **options}
    for key, low in (("image_size", 16), ("seed", 0), ("num_train", 0), ("num_val", 0),
                     ("num_test", 0)):
        value = merged[key]
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
            raise UserError(f"phantom: {key} = {value!r}: set a whole number of at least {low}")
    if not 0 < merged["prevalence"] <= 0.5:
        raise UserError(
            f"phantom: prevalence = {merged['prevalence']!r}: set a number above 0, at most 0.5"
        )
    if not 0 <= merged["artifacts"] <= 1:
        raise UserError(
            f"phantom: artifacts = {merged['artifacts']!r}: set a probability from 0 to 1"
        )
    return merged


def _indices(options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {s: _START[s] + np.arange(options[f"num_{s}"]) for s in SPLITS}


def prepare(options: Mapping[str, Any]) -> Account:
    """Nothing is read or written: films are made when they are asked for."""
    started = time.perf_counter()
    checked = _checked(options)
    films = sum(checked[f"num_{s}"] for s in SPLITS)
    return Account(
        dataset="phantom",
        directory="memory (made on the fly)",
        rows_read=films,
        films_found=films,
        films_stored=films,
        notes=["films are made on the fly from (seed, index): there is nothing to prepare"],
        seconds=time.perf_counter() - started,
    )


def load(options: Mapping[str, Any]) -> Films:
    """The phantom films of a seed.

    Args:
      options: image_size (pixels; 64 if left out) and those of DEFAULTS. Films of a split are the
        first `num_<split>` of an endless series, so a larger data set holds the smaller one.

    Returns:
      Films whose table has id, patient, view, index and the labels f32[n, 14] as `label`.

    Raises:
      UserError: an option out of range.
    """
    checked = _checked(options)
    seed, prevalence = int(checked["seed"]), float(checked["prevalence"])
    parts = _indices(checked)
    indices = np.concatenate([parts[s] for s in SPLITS]).astype(np.int64)
    drawn = [findings_of(seed, int(i), prevalence) for i in indices]
    labels = np.array([label for label, _ in drawn], np.float32).reshape(-1, len(LABELS))
    ends = np.cumsum([0] + [len(parts[s]) for s in SPLITS])
    splits = {s: np.arange(a, b, dtype=np.int64) for s, a, b in zip(SPLITS, ends, ends[1:])}
    counts = {s: len(at) for s, at in splits.items()}
    table = {
        "id": np.array([film_id(seed, int(i)) for i in indices]),
        "patient": np.array([patient_of(seed, int(i))[0] for i in indices], np.int64),
        "view": np.array([view for _, view in drawn]),
        "index": indices,
        "label": labels,
    }
    return Films(
        source=FilmSource(
            indices, int(checked["image_size"]), seed, prevalence, float(checked["artifacts"])
        ),
        table=table,
        splits=splits,
        labels=LABELS,
        task=TASK,
        masks=MASKS,
        info={
            "protocol": f"phantom (synthetic), seed {seed}, patient-disjoint "
            + "/".join(str(counts[s]) for s in SPLITS),
            "split": "patient-disjoint",
            "seed": seed,
            "fingerprint": _fingerprint(seed, prevalence),
            "counts": counts,
            "prevalence": {
                s: {
                    name: round(float(labels[at, k].mean()), 4) if len(at) else None
                    for k, name in enumerate(LABELS)
                }
                for s, at in splits.items()
            },
        },
        # Heart, aortic arch and stomach are on the left.
        allow_flip=False,
    )


def _fingerprint(seed: int, prevalence: float) -> str:
    """Of what this version draws: one small film with every finding, and some films' labels."""
    film = render(seed, 0, 32, findings=LABELS)["image"]
    labels = np.stack([findings_of(seed, i, prevalence)[0] for i in range(64)])
    return f"{zlib.crc32(labels.tobytes(), zlib.crc32(film.tobytes())):08x}"


def boxes(options: Mapping[str, Any], positions: Sequence[int] | None = None) -> list[Box]:
    """Where the findings are: [(id, finding, (x0, y0, x1, y1))] in fractions of width and height.

    Args:
      options: as for `load`.
      positions: films, as positions in `load(options).source`; all test films if left out.
    """
    checked = _checked(options)
    parts = _indices(checked)
    indices = np.concatenate([parts[s] for s in SPLITS])
    if positions is not None:
        indices = indices[np.asarray(positions, np.int64)]
    else:
        indices = parts["test"]
    seed, prevalence = int(checked["seed"]), float(checked["prevalence"])
    found = []
    for index in indices:
        label, view = findings_of(seed, int(index), prevalence)
        # Outlines are formulas: the smallest of films will do.
        _, places = _scene(seed, int(index), 8, label, view)
        found += [(film_id(seed, int(index)), name, place) for name, place in places]
    return found
