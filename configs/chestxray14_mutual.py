r"""Deep Mutual Learning on ChestX-ray14: networks that teach each other.

    python launch.py --mode=train --config=configs/chestxray14_mutual.py:resnet50,resnet18 \
        --workdir=runs/mutual

On synthetic films, nothing to download: `...:resnet18,resnet18,data=phantom,size=64`. Of one
network: `--config.networks.resnet18_2.optimizer.learning_rate=3e-4` (or `.seed=7`); of all of them:
`--config.optimizer.learning_rate=3e-4`, `--config.model.dtype=bfloat16`.
"""

from ml_collections import ConfigDict

from cxrjax import models
from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: the networks in the order of their updates, then order=simultaneous, peers=sum,
    data=phantom, size=PIXELS, split=NAME. One network alone is trained on its labels."""
    given = [part for part in (argument or "").split(",") if part]
    cohort = [part for part in given if "=" not in part] or ["resnet50", "resnet18"]
    arg = experiment.argument(
        ",".join(part for part in given if "=" in part),
        order="sequential", peers="mean", data="chestxray14", size=0, split="",
    )
    config = experiment.of(arg.data, cohort[0], arg.size, arg.split)
    bare = [model.rpartition(":")[2] for model in cohort]
    names = [
        name if name not in bare[:k] else f"{name}_{bare[:k].count(name) + 1}"
        for k, name in enumerate(bare)
    ]
    config.scheme = ConfigDict({
        "name": "mutual", "networks": tuple(names), "order": arg.order, "peers": arg.peers,
        "kl_weight": 1.0, "temperature": 1.0, "kl_labels": "mean",
    })
    # A change of config.seed, config.optimizer or an option of config.model reaches every network
    # (an option only where the first network has it at the same default); a network's own field
    # changes it alone.
    shared = models.defaults_of(cohort[0])

    def options(model):
        return experiment.model_options(model) | {
            k: config.model.get_oneway_ref(k) if k in shared and shared[k] == v else v
            for k, v in models.defaults_of(model).items()
        }

    config.networks = ConfigDict({
        name: {
            "model": options(model),
            "optimizer": {k: config.optimizer.get_oneway_ref(k) for k in config.optimizer},
            "seed": config.get_oneway_ref("seed") + 1000 * k,
            "init_from": config.get_oneway_ref("init_from"),
        }
        for k, (name, model) in enumerate(zip(names, cohort))
    })
    return config
