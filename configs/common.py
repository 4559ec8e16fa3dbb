"""What all experiments share. A config file changes what it is about and leaves the rest."""

import importlib
import pathlib
import pkgutil

from ml_collections import ConfigDict

from cxrjax import augment, datasets, losses, models
from cxrjax.errors import UserError
from cxrjax.names import suggest


def base(dataset: str, model: str, image_size: int, loss: str = "") -> ConfigDict:
    """A complete supervised experiment.

    Args:
      dataset: file name in `cxrjax/datasets`, or a dotted path to a module of one's own.
      model: name for `cxrjax.models.create`, or a dotted path.
      image_size: side of the square films, in pixels.
      loss: name for `cxrjax.losses.make`, or a dotted path; by default what fits the labels.
    """
    if not loss:
        multilabel = datasets.module(dataset).TASK == "multilabel"
        loss = "bce" if multilabel else "softmax_ce"
    config = ConfigDict()
    config.seed = 0
    config.dataset = dataset_options(dataset, image_size)
    config.cache_in_memory = False  # keep every film once read; for small sets
    # Reading processes; 0 reads in threads, enough for prepared films. A run keeps its number.
    config.workers = 0
    config.threads = 2

    config.model = ConfigDict(model_options(model))
    config.init_from = ""  # weights in torch's layout, or the workdir of another run

    config.scheme = ConfigDict({"name": "supervised"})
    # None is "" here, because a flag must know a type; 'balanced' weighs by the training labels.
    options = {k: "" if v is None else v for k, v in losses.defaults_of(loss).items()}
    config.loss = ConfigDict({"name": loss, **options})
    # Gray films in [0, 1] on the scale of ImageNet's mean over colours.
    config.normalize = ConfigDict({"mean": 0.449, "std": 0.226})
    config.augment = ConfigDict(dict(augment.DEFAULTS))

    config.batch_size = 32  # per step, over all devices
    config.eval_batch_size = 64
    config.steps_per_call = 0  # steps per compiled call; 0: 1 on a CPU, 10 elsewhere
    config.train_for = "20 epochs"
    config.evaluate_every = "1 epoch"
    config.checkpoint_every = "1 epoch"
    config.log_every = "20 steps"
    config.monitor = "auroc"  # macro, on validation: chooses the best checkpoint

    config.optimizer = ConfigDict({
        "name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2, "momentum": 0.9,
        "nesterov": True, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0, "accumulate": 1,
        "ema_decay": 0.0,
    })
    config.schedule = ConfigDict({
        "name": "cosine", "warmup": "1 epoch", "final": 0.0,
        "boundaries": ("10 epochs", "15 epochs"), "factor": 0.1,
    })
    return config


def of(data: str, model: str, size: int = 0, split: str = "") -> ConfigDict:
    """The experiment of `configs/<data>.py` (films, augmentation, optimizer) with another network.

    What compares training schemes starts here, so that nothing else differs.

    Args:
      data: a config file beside this one, or the dotted path of a data set (then `base`).
      model: as for `base`.
      size: of the films in pixels; 0 for the experiment's own.
      split: '' for the experiment's own.

    Raises:
      UserError: there is no such file.
    """
    if ":" in data:
        return base(data, model, size)
    folder = str(pathlib.Path(__file__).parent)
    known = {m.name for m in pkgutil.iter_modules([folder])} - {"common"}
    if data not in known:
        raise UserError(f"no experiment configs/{data}.py" + suggest(data, known))
    options = [model] + [f"size={size}"] * bool(size) + [f"split={split}"] * bool(split)
    return importlib.import_module(f"configs.{data}").get_config(",".join(options))


def model_options(name: str) -> dict:
    """The options of a network at their defaults.

    `options_of` says whose they are: a `name` that is changed alone is refused, as the options that
    stay would make another network of it.
    """
    return {"name": name, "options_of": name, **models.defaults_of(name)}


def dataset_options(name: str, image_size: int) -> ConfigDict:
    """The options of a data set at their defaults, `raw_dir` and `data_dir` included."""
    return ConfigDict({
        "name": name, "raw_dir": "", "data_dir": "data", "image_size": image_size,
        **datasets.module(name).DEFAULTS,
    })


def parse(argument: str | None, **defaults):
    """The argument after the colon of `--config=file.py:argument` as a ConfigDict.

    'densenet121' sets the first default, 'model=densenet121,size=128' sets by name, and a bare name
    of a boolean sets it True.

    Raises:
      UserError: no such argument, or a value of the wrong type.
    """
    out = dict(defaults)
    for position, part in enumerate(p for p in (argument or "").split(",") if p):
        key, equals, value = part.partition("=")
        if not equals:
            if position == 0:
                key, value = next(iter(defaults)), part
            elif isinstance(defaults.get(key), bool):
                value = "true"
            else:
                raise UserError(f"config argument {part!r} is not name=value" +
                                suggest(key, defaults))
        if key not in defaults:
            raise UserError(f"unknown config argument {key!r}" + suggest(key, defaults))
        default = defaults[key]
        try:
            if isinstance(default, bool):
                out[key] = {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            else:
                out[key] = type(default)(value)
        except (KeyError, ValueError):
            raise UserError(
                f"config argument {key}={value}: not a {type(default).__name__}"
            ) from None
    return ConfigDict(out)
