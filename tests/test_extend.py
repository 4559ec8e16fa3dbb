"""A training scheme of one's own, in one short file, through the whole of train and evaluate."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from cxrjax.evaluation import evaluate
from cxrjax.training import checkpoint, loop
from cxrjax.training import experiment as experiments

FILE = pathlib.Path(__file__).with_name("own_scheme.py")


def experiment():
    config = experiments.base("tests.toy:", "tests.toy:create", 16)
    config.scheme = ConfigDict({"name": "tests.own_scheme:", "alpha": 0.4})
    config.batch_size = config.eval_batch_size = 16
    config.train_for, config.evaluate_every = "60 steps", "20 steps"
    config.checkpoint_every, config.log_every = "30 steps", "20 steps"
    config.schedule.warmup, config.optimizer.learning_rate = "2 steps", 0.01
    return config


def test_a_scheme_of_ones_own_trains_resumes_and_is_evaluated(tmp_path):
    assert len(FILE.read_text().splitlines()) <= 45
    loop.train(experiment(), tmp_path / "whole")
    loop.train(experiment(), tmp_path / "parts", stop_at=30)
    loop.train(experiment(), tmp_path / "parts")
    whole, parts = (
        checkpoint.restore_variables(tmp_path / name, "latest")[2] for name in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    result = evaluate.evaluate(tmp_path / "whole")
    assert result["networks"]["mixup"]["macro"]["macro AUROC"] > 0.9
