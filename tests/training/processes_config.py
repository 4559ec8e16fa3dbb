"""A config for `--config=`: toy films, a network with dropout, everything random switched on."""

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: 'mutual' or 'grouped' for these schemes instead of supervised training."""
    config = experiment.base("tests.toy:", "tests.toy:create", 16)
    config.batch_size, config.eval_batch_size = 16, 10
    config.train_for, config.evaluate_every = "20 steps", "10 steps"
    config.checkpoint_every, config.log_every = "5 steps", "1 steps"
    config.schedule.warmup = "2 steps"
    config.optimizer.learning_rate, config.optimizer.ema_decay = 0.01, 0.9
    config.augment.rotate = 10.0
    config.model.dropout = 0.3
    with config.unlocked():
        if argument == "mutual":
            config.scheme = {"name": "mutual", "networks": ("a", "b"), "order": "sequential",
                             "peers": "mean", "kl_weight": 1.0, "temperature": 1.0,
                             "kl_labels": "mean"}
            config.networks = {n: {"model": {"name": "tests.toy:create", "width": 8}} for n in "ab"}
        if argument == "grouped":
            config.scheme = {"name": "grouped", "kind": "separate",
                             "groups": (("Left", "Top"), ("Right",))}
    return config
