"""PneumoniaMNIST at 28x28: normal or pneumonia."""

from configs import common


def get_config(argument=None):
    arg = common.parse(argument, model="resnet18", size=28)
    config = common.base("pneumoniamnist", arg.model, arg.size)
    config.model.small_stem = True
    config.loss.name = "softmax_ce"
    return config
