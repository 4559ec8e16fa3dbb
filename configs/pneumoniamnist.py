"""PneumoniaMNIST at 28x28: normal or pneumonia.

    python launch.py --mode=prepare --config=configs/pneumoniamnist.py --config.dataset.raw_dir=DIR
    python launch.py --mode=train --config=configs/pneumoniamnist.py --workdir=runs/pneumonia

DIR holds `pneumoniamnist.npz`.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS and width=CHANNELS of the stem (of ResNets)."""
    arg = experiment.argument(argument, model="resnet18", size=28, width=32)
    config = experiment.base("pneumoniamnist", arg.model, arg.size)
    if arg.model.startswith("resnet"):
        config.model.small_stem = arg.size < 64
        config.model.width = arg.width
    # Three quarters of the training films show pneumonia, five eighths of the test films.
    config.loss.class_weights = "balanced"
    config.loss.label_smoothing = 0.1
    config.batch_size, config.eval_batch_size = 64, 64
    config.train_for = "15 epochs"
    config.augment.update(rotate=10.0, scale=0.1, shift=0.06, gamma=0.2, contrast=0.2,
                          brightness=0.1, cutout=0.25)
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.05, ema_decay=0.99)
    return config
