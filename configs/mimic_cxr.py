"""MIMIC-CXR-JPG: 14 labels of studies, one network.

    python launch.py --mode=prepare --config=configs/mimic_cxr.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/mimic_cxr.py:densenet121 --workdir=runs/mimic_cxr

FOLDER holds files/ and the tables mimic-cxr-2.0.0-*.csv.gz. What uncertain labels become is said
by label, as in `--config.dataset.uncertain=ignore,Edema=ones`; `labels=competition` takes the five
labels of CheXpert's competition.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, labels=all|competition, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=320, labels="all", loss="bce")
    config = experiment.base("mimic_cxr", arg.model, arg.size, arg.loss)
    config.dataset.labels = "" if arg.labels == "all" else arg.labels
    config.batch_size = 32
    config.train_for = "3 epochs"
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
