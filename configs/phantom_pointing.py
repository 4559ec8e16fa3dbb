"""Synthetic films, and a network of local evidence whose heat maps point at what was drawn.

    python launch.py --mode=train --config=configs/phantom_pointing.py --workdir=runs/pointing
    python launch.py --mode=explain --workdir=runs/pointing

The quickstart's network answers as well, but the last map of a ResNet at 64 pixels is too coarse
to point at a nodule.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS."""
    arg = experiment.argument(argument, model="bagnet", size=128)
    config = experiment.base("phantom", arg.model, arg.size)
    config.dataset.num_train = 8000
    config.cache_in_memory = True
    config.batch_size = 64
    config.train_for = "12 epochs"
    config.optimizer.learning_rate = 3e-3
    config.augment.update(rotate=4.0, shift=0.03)
    return config
