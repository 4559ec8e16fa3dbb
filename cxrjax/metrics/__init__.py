"""Pure figures of labels, scores, masks and boxes; NumPy on the host."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "ranking": [
        "auroc", "average_precision", "log_odds", "precision_recall_curve", "probabilities",
        "roc_curve",
    ],
    "decisions": [
        "at_prevalence", "at_thresholds", "choose_thresholds", "class_scores",
        "confusion_matrix", "confusion_scores", "multiclass", "net_benefit", "of_counts",
        "one_of_n",
    ],
    "calibration": [
        "apply_map", "brier", "brier_skill", "calibration_error", "fit_map", "reliability",
        "slope_and_intercept",
    ],
    "intervals": [
        "areas", "auroc_interval", "holm", "mean_auroc_interval", "over_seeds", "paired_auroc",
        "paired_mean_auroc", "proportion_interval",
    ],
    "segmentation": ["dice", "hausdorff95", "iou"],
    "_common": ["mean_counted"],
})
