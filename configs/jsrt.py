"""JSRT: lungs and heart as two masks of one network, every fifth film held out.

    python launch.py --mode=prepare --config=configs/jsrt.py --config.dataset.raw_dir=DIR
    python launch.py --mode=train --config=configs/jsrt.py --workdir=runs/jsrt
    python launch.py --mode=evaluate --workdir=runs/jsrt

The class, whether there is a nodule, is learned beside them but weighs little: 172 films of 128
pixels do not teach it. The checkpoint is chosen by Dice.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model resunet|cross_stitch|mtan, then size=PIXELS, encoder=, balance=."""
    arg = experiment.argument(
        argument, model="resunet", size=128, encoder="resnet18", balance="fixed"
    )
    config = experiment.base("jsrt", arg.model, arg.size)
    experiment.set_encoder(config, arg.encoder)
    config.model.decoder_width = 128
    config.scheme.name = "multitask"
    with config.unlocked():
        config.scheme.balance = arg.balance
    config.cache_in_memory = True
    config.monitor = "dice"
    config.loss.update(ce_weight=0.1, dice_weight=1.0)
    config.batch_size, config.eval_batch_size = 8, 8
    config.train_for, config.evaluate_every = "60 epochs", "5 epochs"
    config.checkpoint_every = "5 epochs"
    config.optimizer.update(learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99)
    config.schedule.warmup = "3 epochs"
    config.augment.update(rotate=8.0, scale=0.1, shift=0.06, gamma=0.3, contrast=0.3,
                          brightness=0.1)
    return config
