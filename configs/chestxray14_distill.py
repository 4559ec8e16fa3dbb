r"""Distillation on ChestX-ray14: a small network taught by a trained one.

    python launch.py --mode=train --config=configs/chestxray14.py:resnet50 --workdir=runs/r50
    python launch.py --mode=train --workdir=runs/distilled \
        --config=configs/chestxray14_distill.py:resnet18,teacher=runs/r50

Several teachers: `--config.scheme.teachers="('runs/a', 'runs/b')"`. On synthetic films:
`...:resnet18,teacher=runs/phantom,data=phantom,size=64`.
"""

from ml_collections import ConfigDict

from cxrjax.training import experiment


def get_config(argument=None):
    """`argument`: student, then teacher=WORKDIR, data=phantom, size=PIXELS, split=NAME."""
    arg = experiment.argument(
        argument, model="resnet18", teacher="", data="chestxray14", size=0, split=""
    )
    config = experiment.of(arg.data, arg.model, arg.size, arg.split)
    config.scheme = ConfigDict({
        "name": "distill",
        "teachers": (arg.teacher,) if arg.teacher else (),
        "teacher_checkpoint": "best",
        "teacher_network": "",  # of a teacher with several answers: its merged or ensemble one
        "weight": 0.5,  # of the soft loss; 1: the labels are not used
        "temperature": 2.0,
    })
    return config
