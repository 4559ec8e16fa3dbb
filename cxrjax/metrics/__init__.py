"""Pure figures of labels, scores, masks and boxes; NumPy on the host."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "ranking": [
        "auroc", "average_precision", "precision_recall_curve", "probabilities", "roc_curve",
    ],
    "decisions": [
        "at_thresholds", "choose_thresholds", "class_scores", "confusion_matrix",
        "confusion_scores", "multiclass", "one_of_n",
    ],
    "calibration": ["brier", "calibration_error"],
    "segmentation": ["dice", "hausdorff95", "iou"],
    "_common": ["mean_counted"],
})
