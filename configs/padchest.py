"""PadChest: findings out of physicians' and a network's labels, one network.

    python launch.py --mode=prepare --config=configs/padchest.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/padchest.py:densenet121 --workdir=runs/padchest

FOLDER holds PADCHEST_..._160K_01.02.19.csv(.gz) and the films. Other findings of the set are chosen
as in `--config.dataset.labels=cardiomegaly,nodule`, and physicians' labels alone by
`--config.dataset.method=Physician`.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=224, loss="bce")
    config = experiment.base("padchest", arg.model, arg.size, arg.loss)
    config.batch_size = 32
    config.train_for = "10 epochs"
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
