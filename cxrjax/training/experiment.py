"""What an experiment is: the config that all share, its checks, and what a run of it records.

A config file changes what it is about and leaves the rest:

    from cxrjax.training import experiment

    def get_config(argument=None):
        arg = experiment.argument(argument, model="densenet121", size=224)
        return experiment.base("chestxray14", arg.model, arg.size)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict, FrozenConfigDict

from cxrjax import __version__, models
from cxrjax.data import augment, input_pipeline, reading, sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.models.weights import hub
from cxrjax.names import config_file, load_config_file, scheme_of, suggest
from cxrjax.training import losses, warm_start
from cxrjax.training.optim import to_steps


def base(dataset: str, model: str, image_size: int, loss: str = "") -> ConfigDict:
    """A complete supervised experiment.

    Args:
      dataset: file name in `cxrjax/data/sets`, or a dotted path to a module of one's own.
      model: name for `cxrjax.models.create`, or a dotted path.
      image_size: side of the square films, in pixels.
      loss: name for `cxrjax.training.losses.make`, or a dotted path; by default what fits the
        labels.
    """
    loss = loss or LOSS_OF[sets.module(dataset).TASK]
    config = ConfigDict()
    config.seed = 0
    config.seeds = 1  # runs that differ in the seed alone, trained side by side from `seed` on
    config.dataset = dataset_options(dataset, image_size)
    config.cache_in_memory = False  # keep every film once read; for small sets
    config.cache_on_device = False  # the training films lie in the devices' memory
    # 0 reads in threads alone, enough for prepared films. A run keeps its number.
    config.reading_processes = 0
    config.threads = 2

    config.model = ConfigDict(model_options(model))
    config.intended_use = ""  # on cards, pages and pictures; "": research and teaching
    config.init_from = ""  # weights in any layout, the workdir of another run, or hub:USER/NAME

    config.scheme = ConfigDict({"name": "supervised"})
    # None is "" here, because a flag must know a type; 'balanced' weighs by the training labels.
    config.loss = ConfigDict({"name": loss, **loss_options(loss)})
    # Gray films in [0, 1] on the scale of ImageNet's mean over colours.
    # source 'weights': the scale that comes with init_from (`warm_start.normalization`).
    config.normalize = ConfigDict({"mean": 0.449, "std": 0.226, "source": ""})
    config.augment = ConfigDict(dict(augment.DEFAULTS))

    config.batch_size = 32  # per step, over all devices
    config.eval_batch_size = 64
    config.steps_per_call = 0  # steps per compiled call; 0: 1 on a CPU, 10 elsewhere
    config.train_for = "20 epochs"
    config.evaluate_every = "1 epoch"
    config.checkpoint_every = "1 epoch"
    config.log_every = "20 steps"
    config.keep = 2  # newest checkpoints that a run can go on from
    config.patience = 0  # validations without a better one that end the training; 0: none do
    # Batch statistics of training films as they are, for validation and in the best checkpoint.
    config.recalibrate = False
    config.monitor = "auroc"  # macro, on validation: chooses the best checkpoint

    config.optimizer = ConfigDict({
        "name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2, "momentum": 0.9,
        "nesterov": True, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0, "accumulate": 1,
        "ema_decay": 0.0,
        # Fine-tuning: each layer below the head learns at this part of the next one's rate (0:
        # off), and what stays as it is, as in 'encoder' or 'encoder/stem,encoder/stage1'.
        "layer_decay": 0.0, "freeze": "",
    })
    config.schedule = ConfigDict({
        "name": "cosine", "warmup": "1 epoch", "final": 0.0,
        "boundaries": ("10 epochs", "15 epochs"), "factor": 0.1,
    })
    return config


# What fits the labels; those of a table are known once it is prepared, and `complete` chooses then.
LOSS_OF = {"multilabel": "bce", "multiclass": "softmax_ce", "auto": "auto"}


def loss_options(name: str) -> dict[str, Any]:
    """The options of a loss at their defaults, "" for None; of 'auto' those of either choice."""
    if name == "auto":
        return loss_options("bce") | loss_options("softmax_ce")
    return {k: "" if v is None else v for k, v in losses.defaults_of(name).items()}


def _choose_loss(loss: ConfigDict, task: str) -> None:
    """Puts the loss of the task where 'auto' stands, and takes the other one's options away.

    Raises:
      UserError: one of those was set.
    """
    if loss.name != "auto":
        return
    loss.name = LOSS_OF[task]
    own = loss_options(loss.name)
    for key, default in loss_options("auto").items():
        if key not in own and key in loss:
            if loss[key] != default:
                raise UserError(
                    f"config.loss.{key} = {loss[key]!r} is no option of {loss.name}, the loss of "
                    f"these {task} labels"
                )
            del loss[key]


def of(data: str, model: str, size: int = 0, split: str = "") -> ConfigDict:
    """The experiment of `configs/<data>.py` (films, augmentation, optimizer) with another network.

    What compares training schemes starts here, so that nothing else differs.

    Args:
      data: a config that came with the package, or the dotted path of a data set (then `base`).
      model: as for `base`.
      size: of the films in pixels; 0 for the experiment's own.
      split: '' for the experiment's own.

    Raises:
      UserError: there is no such file.
    """
    if ":" in data:
        return base(data, model, size)
    options = [model] + [f"size={size}"] * bool(size) + [f"split={split}"] * bool(split)
    return load_config_file(config_file(data))(",".join(options))


def model_options(name: str) -> dict:
    """The options of a network at their defaults.

    `options_of` says whose they are: a `name` that is changed alone is refused, as the options that
    stay would make another network of it.
    """
    return {"name": name, "options_of": name, **models.defaults_of(name)}


def set_encoder(config: ConfigDict, encoder: str) -> None:
    """`config.model.encoder`, the config argument `encoder=`, where it is given.

    Raises:
      UserError: the network has no decoder. (Whether one fits that encoder, the network says.)
    """
    if not encoder:
        return
    if "num_masks" not in config.model:
        raise UserError(f"config argument encoder={encoder}: {config.model.name} has no decoder; "
                        f"for two tasks write :resunet,encoder={encoder}")
    config.model.encoder = encoder


def dataset_options(name: str, image_size: int) -> ConfigDict:
    """The options of a data set at their defaults, `raw_dir` and `data_dir` included."""
    return ConfigDict({
        "name": name, "raw_dir": "", "data_dir": "data", "image_size": image_size,
        "reading": reading.NEWEST, **sets.module(name).DEFAULTS,
    })


def argument(text: str | None, **defaults):
    """What stands after the colon of `--config=file.py:text`, as a ConfigDict.

    'densenet121' sets the first default, 'model=densenet121,size=128' sets by name, and a bare name
    of a boolean sets it True.

    Raises:
      UserError: no such argument, or a value of the wrong type.
    """
    out = dict(defaults)
    for position, part in enumerate(p for p in (text or "").split(",") if p):
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


# The least that a number may be, and the fields that are durations.
_LEAST = {"batch_size": 1, "eval_batch_size": 1, "steps_per_call": 0, "seed": 0, "seeds": 1,
          "reading_processes": 0, "threads": 0, "keep": 1, "patience": 0}
_DURATIONS = ("train_for", "evaluate_every", "checkpoint_every")


def forget_options_of(config: Any, field: str = "config") -> None:
    """Removes `options_of` from every model's options, after it has served.

    It is the name of the network that the options are of. A completed config has none, as those
    of older runs have none.

    Raises:
      UserError: the name was changed and the options were left.
    """
    made_for = config.get("options_of")
    if made_for is not None:
        del config["options_of"]
    if made_for not in (None, config.get("name")):
        models.defaults_of(config.name)  # a name that there is not is said first
        raise UserError(
            f"{field}.name = {config.name!r}, but the other options of {field} are those of "
            f"{made_for!r}: choose the network with --config=FILE:{config.name}"
        )
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            forget_options_of(value, f"{field}.{key}")


def check(config: Any) -> None:
    """Raises UserError at the first field that no training can have; absent fields are passed over.

    What a scheme's own fields may be is checked by the scheme.
    """
    for field, least in _LEAST.items():
        if config.get(field, least) < least:
            raise UserError(f"config.{field} = {config[field]} must be {least} or more")
    for field in _DURATIONS:
        # Whatever the films are: in an epoch so long every part of it counts.
        if field in config and to_steps(config[field], 1e12, field) == 0:
            raise UserError(
                f"config.{field} = {config[field]!r} has no length: as in '1 epoch' or '500 steps'"
            )
    places = {"config.optimizer": config.optimizer}
    for name, network in config.get("networks", {}).items():
        places[f"config.networks.{name}.optimizer"] = network.get("optimizer") or {}
    for place, options in places.items():
        if options.get("learning_rate", 1) <= 0:
            raise UserError(f"{place}.learning_rate = {options['learning_rate']} must be above 0")
        if options.get("clip_norm", 0) < 0:
            raise UserError(f"{place}.clip_norm = {options['clip_norm']} is below 0 (0: off)")
        if not 0 <= options.get("layer_decay", 0) <= 1:
            raise UserError(
                f"{place}.layer_decay = {options['layer_decay']} must be above 0 and at most 1, as "
                "0.65, or 0: off"
            )
        if not 0 <= options.get("ema_decay", 0) < 1:
            raise UserError(
                f"{place}.ema_decay = {options['ema_decay']} must be below 1, as 0.999, or 0: off"
            )
    scheme = scheme_of(config)
    fields = getattr(scheme, "FIELDS", ())
    if missing := [field for field in fields if field not in config.scheme]:
        raise UserError(
            f"scheme {config.scheme.name!r} needs config.scheme.{', '.join(missing)}, which this "
            f"config has not: start from --config={scheme.EXAMPLE}"
        )


def complete(
    config: Any, films: Films, saved: Mapping[str, Any] | None = None
) -> FrozenConfigDict:
    """The config with what follows from the films: labels, task, masks, and the step counts.

    Args:
      config: as the user wrote it.
      films: the opened data set.
      saved: the completed config of the run that goes on: what its scheme found in other runs is
        taken from there, and those runs need not be there any more.

    Raises:
      UserError: see `check`; the training split is empty; options of another network.
    """
    # A copy to the depth: the caller's config may be used again.
    config = ConfigDict(config).copy_and_resolve_references()
    check(config)
    positions = films.splits["train"]
    if not len(positions):
        raise UserError(f"the training split is empty: {films.info.get('protocol', '')}")
    with config.unlocked(), config.ignore_type():
        forget_options_of(config)
        if "seeds" in config:
            del config["seeds"]  # each of them is a run of one
        _choose_loss(config.loss, films.task)
        _pin(config, saved)
        config.normalize = ConfigDict(warm_start.normalization(config, saved))
        config.labels = films.labels
        config.task = films.task
        config.masks = films.masks
        if "reading" not in config.dataset and "preprocessing" in films.info:
            config.dataset.reading = films.info["preprocessing"]["reading"]
        config.image_shape = tuple(films.source[int(positions[0])]["image"].shape)
        config.steps_per_call = config.steps_per_call or (
            1 if jax.default_backend() == "cpu" else 10
        )
        config.steps_per_epoch = len(positions) / config.batch_size
        total = max(1, to_steps(config.train_for, config.steps_per_epoch, "train_for"))
        config.total_steps = math.ceil(total / config.steps_per_call) * config.steps_per_call
        if config.loss.get("pos_weight") == "balanced":
            labels = input_pipeline.labels_of(films, positions)
            positive, negative = np.nansum(labels == 1, 0), np.nansum(labels == 0, 0)
            # No positive at all: nothing to weigh.
            config.loss.pos_weight = tuple(
                float(n / p) if p else 1.0 for n, p in zip(negative, positive)
            )
        if config.loss.get("class_weights") == "balanced":
            counts = np.maximum(np.nansum(input_pipeline.labels_of(films, positions), 0), 1)
            config.loss.class_weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
        for option in ("pos_weight", "class_weights") if ":" not in config.loss.name else ():
            # Here, and not only in the loss: label groups take their own out of a list.
            if isinstance(text := config.loss.get(option), str) and text:
                config.loss[option] = losses.parse_weights(option, text)
        scheme = scheme_of(config)
        if saved is not None and hasattr(scheme, "FOUND"):
            for field in scheme.FOUND:
                _take_over(config, saved, field.split("."))
        elif hasattr(scheme, "complete"):
            config.update(scheme.complete(config, films))
    if config.augment.get("flip") and not films.allow_flip:
        logging.warning(
            "config.augment.flip mirrors films although the side matters for %s",
            config.dataset.name,
        )
    return FrozenConfigDict(config)


def _pin(config: Any, saved: Mapping[str, Any] | None) -> None:
    """Names on the hub with the commit that they mean today, or meant when the run began.

    `config.on_hub` keeps what was given, ((given, pinned), ...), so that the same command finds it.
    """
    known = dict((saved or {}).get("on_hub") or ())

    def pinned(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(pinned(v) for v in value)
        if not hub.is_reference(value) or hub.parse(value).is_pinned:
            return value
        if value not in known:
            known[value] = hub.fetch(value).pinned
        given.append((value, known[value]))
        return known[value]

    given: list[tuple[str, str]] = []
    places = [(config, "init_from"), (config.scheme, "teachers"), (config.scheme, "workdir")]
    places += [(network, "init_from") for network in config.get("networks", {}).values()]
    for place, field in places:
        if field in place:
            place[field] = pinned(place[field])
    if given:
        config.on_hub = tuple(dict.fromkeys(given))


def _take_over(config: Any, saved: Mapping[str, Any], path: Sequence[str]) -> None:
    """Copies the field at `path` of the saved config, if it has it."""
    if path[0] in saved:
        if len(path) == 1:
            config[path[0]] = saved[path[0]]
        else:
            _take_over(config[path[0]], saved[path[0]], path[1:])


def without_origins(config: Any) -> FrozenConfigDict:
    """The config without the files and runs that weights or groups came from.

    It has the same networks; their folders need not be there.
    """
    empty = {"init_from": "", "workdir": ""}

    def clear(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        cleared = {k: empty[k] if k in empty and isinstance(v, str) else clear(v)
                   for k, v in tree.items()}
        return {**cleared, **({"teachers": ()} if "teacher_network" in tree else {})}

    return FrozenConfigDict(clear(config.to_dict()))


def as_tuples(tree: Any) -> Any:
    """JSON has no tuples; configs have no lists."""
    if isinstance(tree, Mapping):
        return {k: as_tuples(v) for k, v in tree.items()}
    return tuple(as_tuples(v) for v in tree) if isinstance(tree, list) else tree


def open_films(config: Any) -> Films:
    """The films of a config, cached in memory where it says so."""
    films = sets.load(config.dataset.to_dict())
    if config.get("cache_in_memory"):
        films = dataclasses.replace(films, source=input_pipeline.Cached(films.source))
    return films


def config_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("cxrjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    out = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = __version__ if name == "cxrjax" else "unknown"
    return out


def make_meta(config: Any, films: Films) -> dict[str, Any]:
    """What a checkpoint carries beside arrays and config."""
    return {
        "format": 1,
        "labels": list(films.labels),
        "task": films.task,
        "masks": list(films.masks),
        "dataset": films.info,
        "ids": {name: films.table["id"][p].tolist() for name, p in films.splits.items()},
        "steps_per_epoch": config.steps_per_epoch,
        "devices": jax.device_count(),
        "versions": versions(),
    }
