"""The quickstart: 14 findings on synthetic films that are made on the fly, no download.

    python launch.py --mode=train --config=configs/phantom.py --workdir=runs/phantom
    python launch.py --mode=evaluate --workdir=runs/phantom
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, loss=bce|asl|focal and, of resunet, encoder=.

    Without one it is the quickstart: a ResNet-18 of half the width, which learns in half the time.
    """
    arg = experiment.argument(argument, model="resnet18", size=64, loss="bce", encoder="")
    config = experiment.base("phantom", arg.model, arg.size, arg.loss)
    experiment.set_encoder(config, arg.encoder)
    config.cache_in_memory = True
    config.train_for = "5 epochs"
    if not argument:
        config.model.width = 32
        config.optimizer.learning_rate = 2e-3
        config.schedule.warmup = "0.5 epochs"
    return config
