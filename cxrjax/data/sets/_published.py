"""Figures that others reported, each with its protocol: what our reports show beside our own.

A figure stands in one column with ours only where its `split` is the one that we evaluated, whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Published:
    """One reported result.

    Attributes:
      name: whose, and of which network.
      split: name of the split as in our configs; '' where the source does not state it.
      protocol: resolution, pretraining and whatever else is known.
      figures: {metric: value}, the metrics named as in our reports.
      per_label: {label: AUROC} where it was reported.
      films: how many test films it was measured on; 0 where that is not known, and then it stands
        beside nothing of ours. A part of a test set is another test set.
      labels: version of the labels, where a data set has several ('2017' of ChestX-ray14); beside
        another version it is said.
    """

    name: str
    split: str
    protocol: str
    figures: Mapping[str, float]
    per_label: Mapping[str, float] = dataclasses.field(default_factory=dict)
    films: int = 0
    labels: str = ""


_LABELS_14 = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)

# Columns as the report prints them; rows in the order of _LABELS_14.
_REPORT_B_COLUMNS = (
    "ResNet-18", "DenseNet-121", "ResNet-50", "mutual ResNet-50 (of ResNet-50, ResNet-18)",
    "mutual ResNet-18 (of ResNet-50, ResNet-18)", "mutual ResNet-18 (first of two)",
    "mutual ResNet-18 (second of two)", "four label groups, ResNet-18",
)
_REPORT_B_MEANS = (0.8165, 0.7934, 0.8099, 0.811, 0.791, 0.808, 0.800, 0.8154)
_REPORT_B_ROWS = (
    (0.7772, 0.7549, 0.7679, 0.779, 0.760, 0.765, 0.761, 0.7723),
    (0.8808, 0.8772, 0.8814, 0.874, 0.861, 0.878, 0.877, 0.8869),
    (0.8299, 0.8180, 0.8323, 0.826, 0.812, 0.828, 0.825, 0.8233),
    (0.7009, 0.6837, 0.7027, 0.709, 0.703, 0.701, 0.699, 0.7020),
    (0.8324, 0.8096, 0.8244, 0.813, 0.785, 0.829, 0.819, 0.8277),
    (0.7719, 0.7282, 0.7532, 0.765, 0.740, 0.758, 0.740, 0.7783),
    (0.7306, 0.7041, 0.7287, 0.735, 0.714, 0.717, 0.710, 0.7216),
    (0.8553, 0.8371, 0.8412, 0.864, 0.849, 0.857, 0.853, 0.8565),
    (0.7542, 0.7450, 0.7512, 0.754, 0.738, 0.752, 0.749, 0.7395),
    (0.8495, 0.8380, 0.8478, 0.848, 0.831, 0.837, 0.833, 0.8481),
    (0.9040, 0.8474, 0.9019, 0.911, 0.872, 0.896, 0.884, 0.9245),
    (0.8325, 0.8197, 0.8243, 0.814, 0.804, 0.822, 0.809, 0.8176),
    (0.7820, 0.7601, 0.7689, 0.771, 0.755, 0.767, 0.757, 0.7805),
    (0.9307, 0.8847, 0.9136, 0.887, 0.854, 0.908, 0.882, 0.9373),
)


def _official(name: str, auroc: float, protocol: str) -> Published:
    return Published(name, "official", f"official test, 25,596 films; {protocol}",
                     {"macro AUROC": auroc}, films=25_596, labels="2017")


CHESTXRAY14 = (
    _official("Wang et al. 2017", 0.745, "ChestX-ray8 paper"),
    _official("DNetLoc", 0.807, "as published"),
    _official("DenseNet-121 (lower of two)", 0.820, "from ImageNet, 224 px"),
    _official("DenseNet-121 (upper of two)", 0.822, "from ImageNet, 224 px"),
    _official("ViT-B (lower of two)", 0.830, "as published"),
    _official("ViT-B (upper of two)", 0.834, "as published"),
    _official("EVA-X-B", 0.835, "as published"),
    Published("CheXNet", "", "its own split, not the official one", {"macro AUROC": 0.841}),
    *(
        Published(
            f"report B, {column}", "", "split not stated", {"macro AUROC": _REPORT_B_MEANS[c]},
            {label: row[c] for label, row in zip(_LABELS_14, _REPORT_B_ROWS)},
        )
        for c, column in enumerate(_REPORT_B_COLUMNS)
    ),
)


def _report_a(name: str, *values: float) -> Published:
    metrics = ("accuracy", "macro precision", "macro recall", "macro F1", "macro AUROC")
    return Published(
        f"report A, {name}", "random", "8:2 at random, the whole database, 25 epochs",
        dict(zip(metrics, values)), films=4233,
    )


COVID_RADIOGRAPHY = (
    _report_a("ConvNeXt", 0.5751, 0.6314, 0.6158, 0.6678, 0.7876),
    _report_a("ResNet-50", 0.6422, 0.7011, 0.7834, 0.6580, 0.8450),
    _report_a("Conformer", 0.6032, 0.6805, 0.7802, 0.6245, 0.8662),
    _report_a("ResNet-UNet", 0.6473, 0.7074, 0.7965, 0.6631, 0.8461),
)


def _pneumonia(name: str, auroc: float, accuracy: float, protocol: str) -> Published:
    figures = {"accuracy": accuracy, "macro AUROC": auroc}
    return Published(name, "official", protocol, figures, films=624)


PNEUMONIAMNIST = (
    _pneumonia("ResNet-18 (MedMNIST)", 0.944, 0.854, "official test, 624 films, 28 px"),
    _pneumonia("ResNet-50 (MedMNIST)", 0.948, 0.854, "official test, 624 films, 28 px"),
    _pneumonia("ResNet-18 (MedMNIST), 224", 0.956, 0.864, "official test, 624 films, 224 px"),
    _pneumonia("Google AutoML Vision (MedMNIST)", 0.991, 0.946, "official test, 624 films, 28 px"),
)


# Localisation on the boxes of ChestX-ray14; figures named as in our tables.
def _boxes(name: str, ious: tuple[float, ...], pointing: float | None, protocol: str) -> Published:
    figures = dict(zip(("IoU > 0.1", "IoU > 0.3", "IoU > 0.5"), ious))
    if pointing is not None:
        figures["pointing"] = pointing
    return Published(name, "", protocol, figures)


_EIGHT = "mean accuracy of 8 findings on the NIH boxes"
_POINTING = "pointing game on the NIH boxes"
CHESTXRAY14_BOXES = (
    _boxes("DenseNet-121, Grad-CAM++", (0.62, 0.28, 0.10), None, f"{_EIGHT}; 512 px"),
    _boxes("CLARiTy", (0.81, 0.59, 0.32), None, _EIGHT),
    _boxes("random", (0.29, 0.10, 0.03), None, _EIGHT),
    _boxes("Grad-CAM++", (), 0.544, _POINTING),
    _boxes("Grad-CAM", (), 0.496, _POINTING),
    _boxes("CAM", (), 0.493, _POINTING),
    _boxes("random", (), 0.228, _POINTING),
    Published(
        "Wang et al. 2017", "", "part of the boxes with IoBB > 0.1 by the best of several regions",
        {},
        {"Atelectasis": 0.728, "Cardiomegaly": 0.993, "Effusion": 0.712, "Infiltration": 0.789,
         "Mass": 0.435, "Nodule": 0.165, "Pneumonia": 0.750, "Pneumothorax": 0.459},
    ),
)
