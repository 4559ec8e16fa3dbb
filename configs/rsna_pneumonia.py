"""RSNA Pneumonia: one label, on films of ChestX-ray14.

    python launch.py --mode=prepare --config=configs/rsna_pneumonia.py \\
        --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/rsna_pneumonia.py --workdir=runs/rsna

FOLDER holds stage_2_train_images/ and stage_2_train_labels.csv; put RSNA's mapping to the NIH's
films beside them, so that a network that was trained on those is not judged on these.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, loss=bce|asl|focal."""
    arg = experiment.argument(argument, model="densenet121", size=224, loss="bce")
    config = experiment.base("rsna_pneumonia", arg.model, arg.size, arg.loss)
    config.batch_size = 32
    config.train_for = "10 epochs"
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
