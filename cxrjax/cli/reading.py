"""From the words of a command line to the arguments of a mode's function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from cxrjax.cli import fields
from cxrjax.cli.table import FLAGS, INSTEAD, MODES, SWITCH, VERBOSITY, Flag, flags_of
from cxrjax.errors import UserError
from cxrjax.names import suggest


def parsed(values: flags.FlagValues, argv: list[str], known_only: bool = False) -> list[str]:
    """What is left of the command line; absl's errors are the user's."""
    try:
        return values(argv, known_only=known_only)
    except flags.Error as error:
        said = str(error).removeprefix("flag ")
        if "Non-boolean" in said:
            said = f"{said.partition(': (')[0]}: must be true or false, or left out"
        raise UserError(said) from None


def parse(
    mode: str | None, argv: list[str], told: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The keyword arguments of a mode's function, and `verbosity`.

    Args:
      mode: one of `MODES`; None is an error, said after those in the flags themselves.
      argv: the program's name and flags, without --mode.
      told: is given the arguments as soon as the flags are known to be right. A config is opened
        only then, and imports JAX.

    Raises:
      UserError: a flag that there is not or that the mode does not take, a value that cannot be,
        something missing, a field that the config has not.
    """
    rows = {flag.name: flag for flag in FLAGS} if mode is None else flags_of(mode)
    values = flags.FlagValues()
    values.set_gnu_getopt()
    for flag in [*rows.values(), VERBOSITY]:
        if flag.kind is SWITCH:
            flags.DEFINE_bool(flag.name, flag.default, flag.words, values)
        else:
            flags.DEFINE(flag.kind, flag.name, flag.default, flag.words, values,
                         flags.ArgumentSerializer())
    rest = parsed(values, argv, known_only=True)
    given = _fields(rest, mode, rows)
    if mode is None:
        raise UserError(f"give --mode={'|'.join(MODES)}")
    for flag in rows.values():
        present = values[flag.name].present
        if present and flag.not_with and values[flag.not_with].present:
            raise UserError(f"--{flag.name} says nothing beside --{flag.not_with}: give one")
        if present and flag.only_with and not values[flag.only_with].value:
            raise UserError(f"--{flag.name} is for --{flag.only_with}")
    missing = [flag for flag in rows.values()
               if mode in flag.needed.split() and not values[flag.name].value]
    if missing:
        needs = "; ".join(f"--{f.name}={f.kind.meta} ({f.words})" for f in missing)
        raise UserError(f"--mode={mode} needs {needs}")
    arguments = {name: values[name].value for name in [*rows, VERBOSITY.name]}
    if given and not (arguments.get("dataset") or arguments.get("config")):
        raise UserError(f"{given[0].partition('=')[0]} is a field of a config: give "
                        f"--{'dataset' if 'dataset' in rows else 'config'} too")
    if told is not None:
        told(arguments)
    if arguments.get("dataset"):
        arguments["dataset"] = _dataset(arguments["dataset"], given)
    elif arguments.get("config"):
        arguments["config"] = fields.open_config(arguments["config"], given)
    return arguments


def _dataset(text: str, given: list[str]) -> Any:
    """The config of `--dataset=text`, with the fields of its data set that the line sets."""
    own = [re.sub(r"^(-+)(no)?dataset\.", r"\1\2config.dataset.", word) for word in given]
    try:
        return fields.open_config(text, own)
    except UserError as error:
        said = str(error).replace("--config=", "--dataset=")
        raise UserError(said.replace("config.dataset.", "dataset.")) from None


def _fields(rest: list[str], mode: str | None, rows: Mapping[str, Flag]) -> list[str]:
    """The overrides of config fields among what no flag took; there may be nothing else."""
    found, value_follows = [], False
    for word in rest[1:]:
        if value_follows and not word.startswith("--"):
            found.append(word)
            value_follows = False
            continue
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("-") or not name:
            raise UserError(f"unexpected argument {word!r}: flags are written --name=value"
                            + (f", as in --mode={word}" if word in MODES else ""))
        place = "dataset" if "dataset" in rows else "config"
        if place in rows and re.match(rf"(no)?{place}\.", name):
            found.append(word)
            value_follows = "=" not in word
        else:
            raise _refused(name, mode, rows)
    return found


def _refused(name: str, mode: str | None, rows: Mapping[str, Flag]) -> UserError:
    """Why a mode does not take a flag: what to give instead, or which modes do."""
    whole, name = name, name.partition(".")[0]
    every = {flag.name for flag in FLAGS}
    bare = name.removeprefix("no")
    name = bare if bare in every and name not in every else name
    if name not in every:
        return UserError(f"unknown flag --{whole}" + suggest(name, ["mode", *rows]))
    takers = [other for other in MODES if name in flags_of(other)]
    instead = INSTEAD.get((mode, name))
    return UserError(
        f"--mode={mode} takes no --{name}" + (f": {instead}" if instead else "")
        + f" (--{name} is for {', '.join(takers)})"
    )
