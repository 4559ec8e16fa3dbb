"""From a name in a config to the object it means: a file of ours, or a dotted path.

Importing a module runs it. A config that the user gives may name any; one that was read from a run
or a report (`guarded`) only what stands in this package or what the user trusts (`trusting`), as
the run may be somebody else's. docs/security.md says why.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import difflib
import importlib
import importlib.util
import os
import pathlib
import pkgutil
import re
import sys
import traceback
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cxrjax.errors import UserError

# What is looked for in each package, in the words of an error.
_WORDS = {"data.sets": "data set", "models": "model", "training.schemes": "scheme"}

_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):(\w*)")  # package.module:attribute
# Where in this package the things are that a config may name by a path.
_ROOMS = ("cxrjax.data.sets", "cxrjax.models", "cxrjax.training.losses", "cxrjax.training.schemes")
# Fields of a saved config that no reading of a run looks up: only a training does, in its own.
_NOT_LOOKED_UP = ("optimizer", "loss", "init_from")
TRUST = "CXRJAX_TRUST"  # modules that are always trusted, in the user's environment
_trusted: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("trusted", default=())


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the closest known name, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known)})"


def public_modules(package: str) -> list[str]:
    """Names of the modules in `cxrjax.<package>` that a config may name."""
    module = importlib.import_module(f"cxrjax.{package}")
    return [m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_")]


def program(name: str = "") -> str:
    """How the user calls us, as a message repeats it: 'python launch.py', 'cxrjax', ...

    Args:
      name: of the program, by default this process's: in a notebook or test that is another's, and
        the console command is named.
    """
    name = os.path.basename(name or (sys.argv or [""])[0])
    return {"launch.py": "python launch.py", "__main__.py": "python -m cxrjax"}.get(name, "cxrjax")


def config_folder() -> pathlib.Path:
    """Where the configs that came with the package are: in the wheel, or beside it in a clone."""
    package = pathlib.Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of the configs that came with the package."""
    return sorted(p.stem for p in config_folder().glob("*.py") if not p.name.startswith("_"))


def config_file(name: str) -> pathlib.Path:
    """The config file `name` of the package, with or without `.py`.

    Raises:
      UserError: there is none of that name.
    """
    known = config_names()
    name = name.removesuffix(".py")
    if name not in known:
        raise UserError(f"no config {name!r} came with cxrjax" + suggest(name, known))
    return config_folder() / f"{name}.py"


def load_config_file(path: pathlib.Path) -> Any:
    """`get_config` of a config file."""
    spec = importlib.util.spec_from_file_location(f"cxrjax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def find_config(name: str) -> pathlib.Path:
    """The file of a config, by its name in the package or by its path; see `open_config`."""
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    if path.parent == pathlib.Path("."):
        return config_file(name)
    ours = f"; did you mean --config={path.stem}?" if path.stem in config_names() else ""
    raise UserError(f"no config file {name}{ours}")


def about_config(name: str) -> str:
    """What a config says of itself and of its argument, read from its file without running it."""
    path = find_config(name)
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    makes = [node for node in tree.body
             if isinstance(node, ast.FunctionDef) and node.name == "get_config"]
    said = [ast.get_docstring(node) for node in [tree, *makes]]
    return "\n\n".join(text for text in said if text)


def open_config(text: str) -> Any:
    """What a config's `get_config` gives: of 'phantom', 'my/own.py' or 'phantom:resnet50,size=96'.

    A bare name is that of a config of the package, unless a file of this name is at hand; what
    stands after the colon is handed to `get_config`.

    Raises:
      UserError: there is no such config, or an error in its file (with the line).
    """
    name, colon, argument = text.partition(":")
    path = find_config(name)
    try:
        return load_config_file(path)(*[argument] * bool(colon))
    except UserError:
        raise
    except Exception as error:
        if os.environ.get("CXRJAX_TRACEBACK"):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


class Untrusted(str):
    """A dotted path that was read from `source` and that nobody trusts: it is not imported."""

    source = ""


@contextlib.contextmanager
def trusting(modules: str | Iterable[str] | None) -> Iterator[None]:
    """Within it, what is read may name these modules, and those inside them ('my_lab,other')."""
    given = modules.split(",") if isinstance(modules, str) else modules or ()
    token = _trusted.set((*_trusted.get(), *(m.strip() for m in given)))
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted() -> tuple[str, ...]:
    """The modules that are trusted here and now, those of the environment among them."""
    always = os.environ.get(TRUST, "").split(",")
    return tuple(dict.fromkeys(m for m in (*_trusted.get(), *always) if m))


def modules_in(tree: Any) -> list[str]:
    """The modules of all dotted paths in a config: who gives it as his own trusts them."""
    if isinstance(tree, Mapping) or hasattr(tree, "items"):
        return [m for value in tree.values() for m in modules_in(value)]
    if isinstance(tree, list | tuple):
        return [m for value in tree for m in modules_in(value)]
    match = _PATH.fullmatch(tree) if isinstance(tree, str) else None
    return [match[1]] if match and not isinstance(tree, Untrusted) else []


def guarded(tree: Any, source: str | pathlib.Path) -> Any:
    """What was read from `source`, with every dotted path that is not trusted as `Untrusted`.

    It is equal to what was read, and `resolve_path` refuses those.
    """
    if isinstance(tree, Mapping):
        return {key: guarded(value, source) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(guarded(value, source) for value in tree)
    match = _PATH.fullmatch(tree) if isinstance(tree, str) else None
    if match is None or any(
        f"{match[1]}.".startswith(f"{module}.") for module in (*_ROOMS, *trusted())
    ):
        return tree
    found = Untrusted(tree)
    found.source = str(source)
    return found


def refuse_untrusted(config: Any) -> None:
    """Raises UserError for the first thing in a `guarded` config that reading its run would import.

    Early, and with the field's name; `resolve_path` refuses whatever is left.
    """
    for field, path in _untrusted(config, "config"):
        parts = field.split(".")
        if not set(parts).intersection(_NOT_LOOKED_UP) and (
            parts[-1] == "name" or _is_there(path.partition(".")[0].partition(":")[0])
        ):
            raise _refusal(path, f" ({field})")


def _untrusted(tree: Any, place: str) -> Iterator[tuple[str, Untrusted]]:
    if isinstance(tree, Untrusted):
        yield place, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _untrusted(value, f"{place}.{key}")
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _untrusted(value, place)


def _is_there(package: str) -> bool:
    """Whether a top-level module could be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return True


def _refusal(path: Untrusted, where: str = "") -> UserError:
    module = path.partition(":")[0]
    package = module.partition(".")[0]
    allow = module if package == "cxrjax" else package
    return UserError(
        f"{path.source} names {str(path)!r}{where}: reading it would import the module {module}, "
        "which is none of cxrjax's to name, and importing runs it. Nothing was imported. If it is "
        f"your own code, or you know it: --trust={allow} (in Python: trust={allow!r})"
    )


def file_stem(text: str) -> str:
    """A label as part of a file's name: itself, unless it could be a path, hidden or too long.

    What had to be changed ends in digits of its own, so that two labels have two files.
    """
    stem = re.sub(r"[\x00-\x1f\x7f/\\]", "_", text).lstrip(".")
    stem = stem.encode(errors="replace")[:100].decode(errors="ignore")
    return stem if stem == text and stem else f"{stem}-{zlib.crc32(text.encode()):08x}"


def refuse_paths(networks: Iterable[str], source: str | pathlib.Path) -> None:
    """Raises UserError where a network that was read from `source` is called what no file can be.

    Files of reports are called by the networks' names.
    """
    for name in networks:
        if file_stem(name) != name:
            raise UserError(f"{source} has a network called {name[:100]!r}: a name of up to 100 "
                            "letters, without slashes and control characters, is needed")


def resolve_path(path: str) -> Any:
    """The object at `package.module:attribute` (or the module itself at `package.module:`).

    Raises:
      UserError: the module cannot be found, or has no such attribute; the path is `Untrusted`.
    """
    if isinstance(path, Untrusted):
        raise _refusal(path)
    module_name, _, attribute = path.partition(":")
    try:
        found = importlib.util.find_spec(module_name) if _PATH.fullmatch(path) else None
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UserError(
            f"no module {module_name!r} for {path!r}: is its folder on PYTHONPATH?"
        )
    module = importlib.import_module(module_name)
    if not attribute:
        return module
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(
            f"module {module_name!r} has no {attribute!r}"
            + suggest(attribute, [n for n in vars(module) if not n.startswith("_")])
        ) from None


def resolve_module(package: str, name: str, hidden: Iterable[str] = ()) -> Any:
    """The module that `name` stands for: `cxrjax.<package>.<name>`, or a dotted path with a colon.

    Args:
      package: 'data.sets', 'models' or 'training.schemes'.
      name: a bare file name of ours, or 'my_lab.films:' for a module of the user's own.
      hidden: files of the package that are not choices (shared helpers).

    Raises:
      UserError: nothing of that name; lists the known names and the closest one.
    """
    if ":" in name:
        return resolve_path(name)
    known = [m for m in public_modules(package) if m not in set(hidden)]
    if name not in known:
        raise UserError(f"unknown {_WORDS[package]} {name!r}" + suggest(name, known))
    return importlib.import_module(f"cxrjax.{package}.{name}")


def scheme_of(config: Any) -> Any:
    """The module of the scheme that `config.scheme.name` names."""
    return resolve_module("training.schemes", config.scheme.name)
