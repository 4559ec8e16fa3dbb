"""A table of one's own (CSV, TSV or ';') and a folder of films: one network.

    python launch.py --mode=prepare --config=configs/table.py --config.dataset.raw_dir=FILMS \\
        --config.dataset.table=films.csv
    python launch.py --mode=train --config=configs/table.py --config.dataset.table=films.csv \\
        --workdir=runs/own

Preparing prints how the table was understood before it reads a film. Columns without a usual name
are named as in `--config.dataset.labels=Edema,Mass --config.dataset.patient=Number`;
docs/data_sets.md says what they may hold.
"""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, loss=bce|asl|focal|softmax_ce (by default what fits)."""
    arg = experiment.argument(argument, model="densenet121", size=224, loss="")
    config = experiment.base("table", arg.model, arg.size, arg.loss)
    config.batch_size = 32
    config.train_for = "20 epochs"
    # No flip: whether the side matters is not known of these labels.
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    return config
