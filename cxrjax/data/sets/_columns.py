"""The columns that tables of films share: how they are called, and what their cells mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Shaped

from cxrjax.errors import UserError
from cxrjax.names import suggest

# Usual names of a column, without case, blanks and punctuation; the first that a table has counts.
USUAL = {
    "path": (
        "path", "filepath", "filename", "file", "image", "imagepath", "imagefile", "imagefilename",
        "imageindex", "imagename", "img", "imgpath", "imgname", "film", "filmpath", "dicom",
        "dicompath", "dicomid", "imageid", "filmid", "id", "name",
    ),
    "patient": (
        "patient", "patientid", "subject", "subjectid", "patientnumber", "pid", "mrn", "case",
        "caseid",
    ),
    "split": ("split", "set", "subset", "partition", "datasplit", "datasetsplit"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "age": ("age", "patientage", "ageyears", "ageinyears", "ageatstudy"),
    "view": ("view", "viewposition", "projection", "viewpos", "appa"),
    "site": ("site", "hospital", "institution", "center", "centre", "clinic", "institutionname"),
    "mask": ("mask", "maskpath", "maskfile", "segmentation"),
    "labels": (
        "labels", "label", "findinglabels", "findings", "finding", "diagnosis", "diagnoses",
        "class", "classname", "classes", "category", "pathology", "pathologies", "target", "y",
    ),
}  # fmt: skip

_SPLITS = {
    "train": "train", "training": "train", "trn": "train", "tr": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
    "development": "val", "tune": "val", "tuning": "val",
    "test": "test", "testing": "test", "tst": "test", "te": "test", "heldout": "test",
    "holdout": "test",
}  # fmt: skip
OLDEST = 120  # years; NIH's first table has a patient of 414
FRONTAL = ("PA", "AP", "FRONTAL")


def squeezed(name: str) -> str:
    """A column's name without case, blanks and punctuation."""
    return "".join(c for c in name.casefold() if c.isalnum())


def usual(kind: str, header: Iterable[str]) -> str:
    """The column of `header` that is usually of this kind ('path', 'patient', ...); '' if none."""
    known = {squeezed(name): name for name in reversed(list(header))}
    wanted = (squeezed(name) for name in USUAL[kind])
    return next((known[name] for name in wanted if name in known), "")


def split_of(cell: str) -> str | None:
    """'train', 'val' or 'test'; '' for an empty cell, None for what is none of them."""
    return _SPLITS.get(squeezed(cell)) if cell else ""


def number(cell: str) -> float:
    """A number, with a comma or a point before the decimals; NaN for what is none."""
    text = cell.strip()
    if "," in text and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return math.nan


def sex_of(cell: str) -> str:
    """'F', 'M', or '' for what is not known."""
    first = cell.strip().casefold()
    if first in ("f", "female", "w", "woman", "femenino"):
        return "F"
    return "M" if first in ("m", "male", "man", "masculino") else ""


def age_of(cell: str) -> float:
    """Years; NaN where it is not known or cannot be. DICOM's '058Y', '006M', '012W', '003D' too."""
    text = cell.strip().casefold()
    dicom = re.fullmatch(r"(\d{1,3})([ymwd])", text)
    if dicom:
        years = int(dicom[1]) / {"y": 1, "m": 12, "w": 365.25 / 7, "d": 365.25}[dicom[2]]
    else:
        years = number(text)
    return years if 0 <= years <= OLDEST else math.nan


def view_of(cell: str) -> str:
    """'PA', 'AP', 'FRONTAL' (which of the two is not said), 'LATERAL', '' for unknown, else itself.

    Whatever begins with AP or PA is frontal (AP_horizontal, AP AXIAL, PA LLD); LL, RL, LATERAL and
    L are lateral.
    """
    text = " ".join(re.split(r"[\s_\-/]+", cell.strip().upper()))
    first = text.partition(" ")[0]
    if first in ("PA", "AP"):
        return first
    if first in ("LATERAL", "LL", "RL", "L", "LAT", "LLAT", "RLAT", "LEFT", "RIGHT"):
        return "LATERAL"
    return "" if text in ("", "UNK", "UNKNOWN", "NAN", "NONE", "N A") else text


def standard(table: Mapping[str, Shaped[np.ndarray, " n ..."]]) -> dict[str, np.ndarray]:
    """The table with its `sex`, `age` and `view` in one form; other columns as they are.

    `sex` is 'F', 'M' or ''; `age` f32 in years, NaN = unknown; `view` as by `view_of`.
    """
    table = dict(table)
    for name, read in (("sex", sex_of), ("view", view_of), ("age", age_of)):
        if name in table and table[name].dtype.kind in "US":
            cells, inverse = np.unique(table[name].astype(str), return_inverse=True)
            values = [read(cell) for cell in cells.tolist()]
            kind = np.float32 if name == "age" else np.str_
            table[name] = np.array(values, kind)[inverse]
    return table


# --- labels as numbers

EMPTY = ("", "nan", "na", "n/a", "none", "null", "-")
UNCERTAIN = ("u", "uncertain", "?", "unknown", "unclear", "equivocal", "possible")
_WORDS = {
    **dict.fromkeys(("1", "yes", "y", "true", "t", "positive", "pos", "present", "x"), 1.0),
    **dict.fromkeys(("0", "no", "n", "false", "f", "negative", "neg", "absent"), 0.0),
    **dict.fromkeys(UNCERTAIN, -1.0),
    **dict.fromkeys(EMPTY, math.nan),
}


def label_of(cell: str) -> float | None:
    """1, 0, -1 (uncertain), NaN (empty), or None for what is no label."""
    text = cell.strip().casefold()
    if text in _WORDS:
        return _WORDS[text]
    value = number(text)
    return value if value in (0.0, 1.0, -1.0) else None


POLICIES = {"ignore": math.nan, "zeros": 0.0, "ones": 1.0}


def policy(text: str | Mapping[str, str], labels: Sequence[str], option: str) -> dict[str, str]:
    """{label: 'ignore' | 'zeros' | 'ones'} from 'ones', or 'ignore,Edema=ones,Fracture=zeros'.

    Raises:
      UserError: a label that there is not, or a policy of another name; `option` is in the message.
    """
    if isinstance(text, Mapping):
        text = ",".join(f"{key}={value}" for key, value in text.items())
    chosen = dict.fromkeys(labels, "ignore")
    own: dict[str, str] = {}
    for part in (p.strip() for p in str(text).split(",")):
        if not part:
            continue
        label, equals, value = (p.strip() for p in part.rpartition("="))
        if value not in POLICIES:
            raise UserError(f"{option}={text!r}: {value!r} is no policy" + suggest(value, POLICIES))
        if not equals:
            chosen = dict.fromkeys(labels, value)
        elif label in chosen:
            own[label] = value
        else:
            raise UserError(f"{option}={text!r}: there is no label {label!r}"
                            + suggest(label, labels))
    return {**chosen, **own}


def apply_policies(
    raw: Float32[np.ndarray, "n k"],
    labels: Sequence[str],
    uncertain: Mapping[str, str],
    empty: Mapping[str, str],
) -> Float32[np.ndarray, "n k"]:
    """Labels of 0, 1 and NaN (unknown) from 0, 1, -1 (uncertain) and NaN (empty)."""
    to = {k: np.array([POLICIES[p[name]] for name in labels], np.float32)
          for k, p in (("uncertain", uncertain), ("empty", empty))}  # fmt: skip
    out = np.where(np.isnan(raw), to["empty"], raw)
    return np.where(raw == -1, to["uncertain"], out).astype(np.float32)
