"""The quickstart: 14 findings on synthetic films that are made on the fly, no download.

    python launch.py --mode=train --config=configs/phantom.py --workdir=runs/phantom
"""

from configs import common


def get_config(argument=None):
    """`argument`: model, then size=PIXELS (as 'resnet18,size=64')."""
    arg = common.parse(argument, model="resnet18", size=64)
    config = common.base("phantom", arg.model, arg.size)
    config.cache_in_memory = True
    config.train_for = "5 epochs"
    return config
