"""Data sets by name: `prepare(options)` reads the raw films once, `load(options)` opens them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from cxrjax.data.sets._label_checks import checked
from cxrjax.data.sets.base import Account, Films, WrongFolder, merge_options
from cxrjax.errors import UserError
from cxrjax.names import public_modules, resolve_module

__all__ = ["Account", "Films", "account", "boxes", "head", "load", "main", "module", "names",
           "prepare"]


def names() -> list[str]:
    """The data sets of this package."""
    return [name for name in public_modules("data.sets") if name != "base"]


def module(name: str) -> ModuleType:
    """The data set's own module: a file of this package, or 'my_lab.films:' of the user's.

    Raises:
      UserError: there is none of that name, or it lacks what a data set must have.
    """
    found = resolve_module("data.sets", name, hidden=("base",))
    needed = ("LABELS", "TASK", "MASKS", "DEFAULTS", "prepare", "load")
    lacking = [attribute for attribute in needed if not hasattr(found, attribute)]
    if lacking:
        raise UserError(f"data set {name!r} ({found.__name__}) has no {', '.join(lacking)}")
    return found


def _resolve(options: Mapping[str, Any]) -> tuple[ModuleType, dict[str, Any]]:
    if not options.get("name"):
        raise UserError("the data set has no name: set dataset.name, for example 'chestxray14'")
    found = module(options["name"])
    return found, merge_options(options, found.DEFAULTS)


def prepare(options: Mapping[str, Any]) -> Account:
    """Reads the raw folder and writes decoded films under `data_dir`; see the data set's file.

    Args:
      options: {name, raw_dir, data_dir, image_size, ...}: what is left out takes the data set's
        DEFAULTS.

    Raises:
      UserError: unknown data set or option, or raw data that cannot be what it should be.
    """
    found, merged = _resolve(options)
    try:
        return found.prepare(merged)
    except WrongFolder as error:
        raise WrongFolder(str(error) + _hint(Path(merged["raw_dir"]).expanduser(), found)) from None


def main(config: Any, strict: bool = False) -> None:
    """`launch.py --mode=prepare`: prepares `config.dataset` and prints the account.

    Args:
      strict: leave out films that are unusual for a chest radiograph.
    """
    if config is None:
        raise UserError("--mode=prepare needs --config=configs/FILE.py, which names the data set")
    print(prepare({**config.dataset.to_dict(), **({"strict": True} if strict else {})}))


def load(options: Mapping[str, Any]) -> Films:
    """Opens what `prepare` wrote with the same options, split as they say; every label is checked.

    Raises:
      UserError: unknown data set or option, nothing prepared yet (gives the command), or a label
        that is none (names the film and the label).
    """
    found, merged = _resolve(options)
    return checked(found.load(merged), options["name"])


def account(options: Mapping[str, Any], films: Films) -> Account | None:
    """The account of the preparation that `films`, opened with these options, are from.

    None where films are made from a seed, or the set keeps no account beside them.
    """
    from cxrjax.data.sets._preparation import ACCOUNT, read_account

    folder = _resolve(options)[1].get("data_dir")
    if not folder or not films.info.get("prepared"):
        return None
    directory = Path(folder).expanduser() / films.info["prepared"]
    return read_account(directory) if (directory / ACCOUNT).is_file() else None


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) of the films that `load` opens with these options.

    The module's own LABELS, TASK and MASKS; where they depend on the options or on what was
    prepared (TASK is 'auto', LABELS all that there may be), its function `head` says.
    """
    found, merged = _resolve(options)
    if hasattr(found, "head"):
        return found.head(merged)
    return tuple(found.LABELS), found.TASK, tuple(found.MASKS)


def boxes(options: Mapping[str, Any]) -> list[tuple[str, str, tuple[float, float, float, float]]]:
    """(film id, finding, (x0, y0, x1, y1) as fractions of width and height) of every known box.

    Raises:
      UserError: the data set has no boxes.
    """
    found, merged = _resolve(options)
    if not hasattr(found, "boxes"):
        raise UserError(f"data set {options['name']!r} has no boxes around its findings")
    return found.boxes(merged)


def _hint(raw_dir: Path, wanted: ModuleType) -> str:
    """What the folder looks like instead, or which folder inside it is the right one."""

    def looks_like(data_set: ModuleType, folder: Path) -> bool:
        try:
            return folder.is_dir() and getattr(data_set, "looks_like", lambda _: False)(folder)
        except OSError:
            return False  # a folder that may not be read, such as lost+found

    if hasattr(wanted, "looks_like") and not looks_like(wanted, raw_dir):
        # Archives often unpack into a folder of their own.
        for inner in sorted((*raw_dir.glob("*"), *raw_dir.glob("*/*"))):
            if looks_like(wanted, inner):
                return f"; did you mean raw_dir={inner}?"
    for name in names():
        if module(name) is not wanted and looks_like(module(name), raw_dir):
            return f"; {raw_dir} looks like {name}"
    return ""
