"""CheXpert: 14 observations, one network.

    python launch.py --mode=prepare --config=configs/chexpert.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/chexpert.py:densenet121 --workdir=runs/chexpert

FOLDER holds train.csv and valid.csv. What uncertain labels become is said by label, as in
`--config.dataset.uncertain=ignore,Edema=ones,Atelectasis=ones`; `labels=competition` takes the
competition's five.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, labels=all|competition, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=320, labels="all", loss="bce")
    config = experiment.base("chexpert", arg.model, arg.size, arg.loss)
    config.dataset.labels = "" if arg.labels == "all" else arg.labels
    config.batch_size = 32
    config.train_for = "3 epochs"
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
