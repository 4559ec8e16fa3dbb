"""ChestX-ray14: 14 findings, one network.

    python launch.py --mode=train --config=configs/chestxray14.py:densenet121 --workdir=runs/d121
"""

from configs import common


def get_config(argument=None):
    """`argument`: model, then size=PIXELS and split=NAME."""
    arg = common.parse(argument, model="densenet121", size=224, split="official")
    config = common.base("chestxray14", arg.model, arg.size)
    config.dataset.split = arg.split
    return config
