"""A config by its name or file, with the fields that the command line sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from cxrjax import names
from cxrjax.errors import UserError
from cxrjax.names import suggest


def open_config(text: str, fields: Sequence[str] = ()) -> Any:
    """The ConfigDict of `--config=text`, locked, with its fields set as the command line says.

    Args:
      text: a name that came with the package or a file, then ':argument' for its `get_config`.
      fields: words of the command line, ['--config.batch_size=8', ...].

    Raises:
      UserError: no such config, an error in the file, no such field, or a value of another type.
    """
    config = names.open_config(text)
    from ml_collections import ConfigDict, config_flags

    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={text}: get_config gives a {type(config).__name__}, and no "
                        "ConfigDict")
    for word in fields:
        if found := re.match(r"--?(?:no)?config\.([\w.]+)(?:=|$)", word):
            _check_field(config, found[1])
    config.lock()
    values = flags.FlagValues()
    argv = ["config", *fields]
    try:
        # What is set on the command line becomes a flag as this one is defined.
        config_flags.DEFINE_config_dict("config", config, "", values, sys_argv=argv)
        left = values(argv)[1:]
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        place = re.search(r"config\.([\w.]+)(=\S*)?", str(error))
        kind = _kind_of(config, place[1]) if place else ""
        raise UserError(
            f"{place[0].rstrip(':')}: must be {kind}" if kind else f"--config: {error}"
        ) from None
    if left:
        raise UserError(f"unexpected argument {left[0]!r}: flags are written --name=value")
    return values.config


def _check_field(config: Any, path: str) -> None:
    """Raises UserError where `path`, such as 'dataset.num_train', is no field of the config."""
    here, place = config, "config"
    for part in path.split("."):
        if not hasattr(here, "keys"):
            raise UserError(f"{place} is {here!r} and has no field {part!r}: --config.{path}")
        if part not in here:
            elsewhere = [
                f"config.{other}" for other in _leaves(config) if other.split(".")[-1] == part
            ]
            hint = suggest(part, here.keys())
            if elsewhere:  # at another place, by this very name
                hint = f"; did you mean {' or '.join(elsewhere[:3])}?" + hint[hint.index(" ("):]
            if place == "config.model" and part in ("decoder", "encoder"):
                hint = "; a network with a decoder is --config=NAME:resunet,encoder=ENCODER"
            raise UserError(f"{place} has no field {part!r}{hint}")
        here, place = here[part], f"{place}.{part}"


def _leaves(config: Any, prefix: str = "") -> list[str]:
    out: list[str] = []
    for key, value in config.items():
        out += _leaves(value, f"{prefix}{key}.") if hasattr(value, "keys") else [f"{prefix}{key}"]
    return out


def _kind_of(config: Any, path: str) -> str:
    """What a field's value must be, in words; '' where it cannot be said."""
    for part in path.split("."):
        if not hasattr(config, "keys") or part not in config:
            return ""
        config = config[part]
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text",
             tuple: "a list, written as '(a, b)'"}
    kind = words.get(type(config), "")
    return kind and f"{kind}; it is {config!r}"
