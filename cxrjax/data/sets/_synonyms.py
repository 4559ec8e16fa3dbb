"""Which label of one data set is which of another: a written table, nothing guessed.

A row names one finding as the sets of this package and the common label lists spell it. What looks
alike and is not the same stands in two rows. Names meet without regard to case, and to blanks,
hyphens and underscores between words.
"""

from __future__ import annotations

from collections.abc import Sequence

# Lung Opacity is any opacity (CheXpert, RSNA's class), Infiltration is NIH's word for some of them:
# not one label. A Mass is larger than 3 cm, a Nodule is not, and CheXpert's Lung Lesion and VinDr's
# Nodule/Mass are either. Pleural Other and Pleural Thickening differ; so do COPD and Emphysema, and
# Hernia (NIH: mostly hiatal) is PadChest's hiatal hernia. Enlarged Cardiomediastinum is not
# Cardiomegaly. Fractures of ribs and clavicles are kinds of Fracture and not the same label.
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("Atelectasis", "Atelectases"),
    ("Cardiomegaly", "Enlarged Heart"),
    ("Effusion", "Pleural Effusion", "Pleural Effusions"),
    ("Infiltration", "Infiltrate", "Infiltrates"),
    ("Mass", "Pulmonary Mass", "Lung Mass"),
    ("Nodule", "Pulmonary Nodule", "Lung Nodule"),
    ("Nodule/Mass", "Nodule or Mass", "Mass/Nodule"),
    ("Lung Lesion",),
    ("Pneumonia",),
    ("Viral Pneumonia",),
    ("COVID", "COVID-19", "COVID19", "COVID-19 Pneumonia"),
    ("Pneumothorax",),
    ("Consolidation",),
    ("Edema", "Oedema", "Pulmonary Edema", "Pulmonary Oedema", "Lung Edema"),
    ("Emphysema", "Pulmonary Emphysema"),
    ("COPD", "COPD Signs", "Chronic Obstructive Pulmonary Disease"),
    ("Fibrosis", "Pulmonary Fibrosis", "Lung Fibrosis"),
    ("ILD", "Interstitial Lung Disease"),
    ("Pleural Thickening",),
    ("Pleural Other",),
    ("Hernia", "Hiatal Hernia", "Hiatus Hernia"),
    ("Lung Opacity", "Airspace Opacity", "Opacity"),
    ("Enlarged Cardiomediastinum", "Widened Mediastinum", "Mediastinal Enlargement"),
    ("Fracture",),
    ("Rib Fracture",),
    ("Clavicle Fracture",),
    ("Support Devices", "Support Device", "Medical Devices"),
    ("Aortic Enlargement",),
    ("Aortic Elongation",),
    ("Calcification",),
    ("Tuberculosis", "TB"),
    ("Lung Tumor", "Lung Tumour"),
    ("No Finding", "No Findings"),
    ("Normal",),
)


def plain(name: str) -> str:
    """A label's name without case, and with one blank for what parts its words."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


_ROW = {plain(name): row[0] for row in SYNONYMS for name in row}


def canonical(name: str) -> str:
    """The first name of the label's row in SYNONYMS; a name in no row only meets its like."""
    return _ROW.get(plain(name), plain(name))


def match_labels(
    ours: Sequence[str], theirs: Sequence[str]
) -> tuple[list[tuple[int, int]], list[str], list[str]]:
    """Which labels of two data sets are the same.

    Returns:
      (pairs (i, j) where ours[i] is theirs[j], in our order; our labels without a partner; theirs).
      A label that two of the other side's would fit goes with the one that is spelled like it, else
      with the first.
    """
    free = dict(enumerate(theirs))
    partner: dict[int, int] = {}
    for same in (plain, canonical):  # those spelled alike choose first
        for i, name in enumerate(ours):
            if i in partner:
                continue
            j = next((j for j, other in free.items() if same(other) == same(name)), None)
            if j is not None:
                partner[i] = j
                del free[j]
    pairs = sorted(partner.items())
    return pairs, [name for i, name in enumerate(ours) if i not in partner], list(free.values())
