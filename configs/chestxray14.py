"""ChestX-ray14: 14 findings, one network.

    python launch.py --mode=prepare --config=configs/chestxray14.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/chestxray14.py:densenet121 --workdir=runs/d121

FOLDER is what NIH hands out: the tables and lists, and `images_001/` to `images_012/` or `images/`.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, split=official|chexnet|random, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=224, split="official", loss="bce")
    config = experiment.base("chestxray14", arg.model, arg.size, arg.loss)
    config.dataset.split = arg.split
    config.batch_size = 32
    config.train_for = "10 epochs"
    # No flip: the heart's side is a finding in itself, and markers would be mirrored.
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
