"""COVID-19 Radiography Database: four classes and lung masks; report A and what came after it.

    CONFIG=configs/covid_radiography.py
    python launch.py --mode=prepare --config=$CONFIG --config.dataset.raw_dir=DIR
    python launch.py --mode=train --config=$CONFIG:resunet --workdir=runs/resunet
    python launch.py --mode=evaluate --workdir=runs/resunet --probe

and the same with resnet50, convnext and conformer in place of resunet, then

    python launch.py --mode=compare --workdirs=runs/resunet,runs/resnet50,runs/convnext,...

All networks are trained by one recipe. What differs is the network; the films, their order, the
augmentation, the optimizer and the number of steps are the same. Larger films cost more, and most
of what there is to learn can be learned on small ones, so it has two parts: 25 epochs at 64 pixels,
then 8 at another size from those weights:

    python launch.py --mode=train --config=$CONFIG:resunet,size=128,start=runs/resunet \\
        --workdir=runs/resunet_128
    python launch.py --mode=recalibrate --workdir=runs/resunet_128 --output=runs/resunet_r
    python launch.py --mode=evaluate --workdir=runs/resunet_r --tta --probe

(ConvNeXt has no batch normalisation and nothing to recalibrate.)

`:resunet,reported` is report A's recipe as far as it states it: plain SGD at a constant 0.1,
batches of 4, 25 epochs, 1 * cross-entropy + 0.01 * Dice. (`:resunet,reported,split=random` also has
its split, which leaks; the default split keeps near duplicates and patients on one side.)
"""

from cxrjax.errors import UserError
from cxrjax.training import experiment

MODELS = {
    "resunet": "resunet", "cross_stitch": "cross_stitch", "mtan": "mtan",
    "resnet50": "resnet50", "convnext": "convnext_tiny", "conformer": "conformer_tiny",
}


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, split=, balance=, encoder=, start=WORKDIR, reported.

    model: one of `MODELS`, or any network's own name. balance: fixed, uncertainty or pcgrad.
    encoder: of the networks with a decoder. split: grouped or random. start: a run of the same
    network, on films of another size, whose weights the second part of the recipe goes on from.
    """
    arg = experiment.argument(argument, model="resunet", size=64, split="grouped", balance="fixed",
                       encoder="", start="", reported=False)
    if arg.reported and arg.start:
        raise UserError("config arguments reported and start: the reported recipe has one part")
    config = experiment.base("covid_radiography", MODELS.get(arg.model, arg.model), arg.size)
    config.dataset.split = arg.split
    config.cache_in_memory = True
    config.loss.dice_weight = 0.01 if arg.reported else 1.0
    if "num_masks" in config.model:
        config.model.encoder = "resnet50"  # of cross_stitch, too
        config.model.decoder_width = 64  # 256, the default, doubles the cost of a step
        config.scheme.name = "multitask"
        with config.unlocked():
            config.scheme.balance = arg.balance
    experiment.set_encoder(config, arg.encoder)
    config.train_for = "25 epochs"
    config.eval_batch_size = 32
    if arg.reported:
        config.batch_size = 4
        config.optimizer.update(name="sgd", learning_rate=0.1, momentum=0.0, nesterov=False,
                                weight_decay=0.0, clip_norm=0.0)
        config.schedule.update(name="constant", warmup="0 steps")
        return config
    config.batch_size = 32
    config.optimizer.update(learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99)
    config.schedule.warmup = "2 epochs"
    if arg.start:
        config.init_from = arg.start
        config.train_for = "8 epochs"
        config.optimizer.learning_rate = 5e-4
        config.schedule.warmup = "1 epoch"
    config.augment.update(rotate=10.0, scale=0.1, shift=0.06, flip=True, gamma=0.2, contrast=0.2,
                          brightness=0.1)
    return config
