r"""ChestX-ray14 with its labels in groups: a classifier for each, merged into one answer.

    python launch.py --mode=train --config=configs/chestxray14_grouped.py:manual \
        --workdir=runs/groups

`manual`: report B's four groups, four networks. `branches`: the same groups, one shared trunk with
a branch each. `clustered`: four networks, the groups found from the labels that occur together in
the training films, or, with workdir=RUN, from the classifiers of a trained network. On synthetic
films: `...:manual,data=phantom,size=64`.
"""

from ml_collections import ConfigDict

from cxrjax.errors import UserError
from cxrjax.models import groups
from cxrjax.names import suggest
from cxrjax.training import experiment

GROUPINGS = ("manual", "branches", "clustered")


def get_config(argument=None):
    """`argument`: manual, branches or clustered, then model=NAME, number=GROUPS to find,
    workdir=RUN to find them from, data=phantom, size=PIXELS, split=NAME."""
    arg = experiment.argument(
        argument, grouping="manual", model="resnet18", number=4, workdir="", data="chestxray14",
        size=0, split="",
    )
    if arg.grouping not in GROUPINGS:
        raise UserError(f"unknown grouping {arg.grouping!r}" + suggest(arg.grouping, GROUPINGS))
    config = experiment.of(arg.data, arg.model, arg.size, arg.split)
    clustered = arg.grouping == "clustered"
    config.scheme = ConfigDict({
        "name": "grouped",
        "kind": "branches" if arg.grouping == "branches" else "separate",
        "groups": () if clustered else groups.CHESTXRAY14,
        "clustering": "features" if arg.workdir else "cooccurrence",  # where groups is ()
        "number": arg.number,
        "workdir": arg.workdir,
        "checkpoint": "best",
        "branch_width": 256,
    })
    return config
