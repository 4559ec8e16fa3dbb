"""A run with fresh weights on phantom's labels, made in memory: for what needs no training.

The network is reached by a dotted path, as a user's own would be: 'tests.small_run:create'.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxrjax.data import sets
from cxrjax.names import scheme_of
from cxrjax.training import experiment, restored, steps

SIZE = 32


class Net(nn.Module):
    num_classes: int
    decoder: bool = False

    @nn.compact
    def __call__(self, image, train):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, name="conv1")(image))
        features = nn.relu(nn.Conv(16, (3, 3), strides=2, name="conv2")(x))
        logits = nn.Dense(self.num_classes, name="head")(features.mean((1, 2)))
        out = {"logits": logits.astype(jnp.float32), "features": features}
        if self.decoder:
            size = (*image.shape[:3], 1)
            out["mask_logits"] = jax.image.resize(nn.Conv(1, (1, 1))(features), size, "linear")
        return out


def create(num_classes, **options):
    options.pop("dtype", None)
    return Net(num_classes, **options)


def config(films=8, **model):
    """Of phantom at SIZE pixels with `films` films a split."""
    made = experiment.base("phantom", "tests.small_run:create", SIZE)
    made.dataset.update({"num_train": films, "num_val": films, "num_test": films})
    with made.unlocked():
        made.model = {"name": "tests.small_run:create", **model}
    made.batch_size = made.eval_batch_size = 8
    return made


def make(films=8, seed=0, **model):
    """The run as `trained.restore` would give it."""
    return of(config(films, **model), seed)


def of(made, seed=0):
    """The run of any config, with fresh weights."""
    opened = sets.load(made.dataset.to_dict())
    made = experiment.complete(made, opened)
    scheme = scheme_of(made)
    sample = {"image": np.zeros((1, *made.image_shape), np.uint8)}
    states = {
        name: steps.EvalState(params=s.params, batch_stats=s.batch_stats)
        for name, s in scheme.init(made, jax.random.key(seed), sample).items()
    }
    meta = experiment.make_meta(made, opened)
    return restored.Run(made, meta, states, 0, scheme.make_predict(made))
