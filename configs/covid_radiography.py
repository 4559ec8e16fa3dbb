"""COVID-19 Radiography Database: four classes."""

from configs import common


def get_config(argument=None):
    arg = common.parse(argument, model="resnet50", size=224, split="grouped")
    config = common.base("covid_radiography", arg.model, arg.size)
    config.dataset.split = arg.split
    return config
