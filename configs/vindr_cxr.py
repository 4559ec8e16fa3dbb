"""VinDr-CXR: 28 labels by the votes of three radiologists, one network.

    python launch.py --mode=prepare --config=configs/vindr_cxr.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/vindr_cxr.py:densenet121 --workdir=runs/vindr_cxr

FOLDER holds train/, test/ and annotations/. How votes become labels is chosen by
`--config.dataset.votes=majority`, `any` or `all`.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=384, loss="bce")
    config = experiment.base("vindr_cxr", arg.model, arg.size, arg.loss)
    config.batch_size = 32
    config.train_for = "10 epochs"
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
