"""Published networks: a folder that needs no workdir, and is read wherever a workdir is.

    cxrjax.json         config, facts, step, checksums of all that follows
    model.safetensors   what predicts: 'network/params/module/leaf' (averaged weights where the run
                        evaluated those)
    seen.json           what it was trained and tuned on, as hashes (`provenance.hidden`)
    golden.safetensors  films u8, and the probabilities that the publisher saw for them
    thresholds.json, calibration.json, config.json (for others' programs), README.md (the card)

Nothing in it is code and nothing is unpickled. It may also lie on the hub: 'hub:USER/NAME'.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float, UInt8
from safetensors.numpy import save_file

from cxrjax.errors import UserError
from cxrjax.models.weights import files, hub
from cxrjax.names import guarded
from cxrjax.training.checksums import checksum_of, checksums_of
from cxrjax.training.saved_configs import in_todays_names

FACTS, ARRAYS, SEEN, GOLDEN = hub.PUBLISHED, "model.safetensors", "seen.json", "golden.safetensors"
FORMAT = 1
LARGEST_JSON = 2**28
_KEYS = {"format": int, "config": dict, "meta": dict, "step": int, "networks": list,
         "checksums": dict}


def located(workdir: str | pathlib.Path | None) -> pathlib.Path:
    """The folder of a run or of weights: a path as it is, what is on the hub in its cache.

    Raises:
      UserError: none given; see `hub.fetch`.
    """
    if not workdir:
        raise UserError("give --workdir=FOLDER of a training")
    return hub.fetch(str(workdir)).path if hub.is_reference(workdir) else pathlib.Path(workdir)


def is_published(folder: str | pathlib.Path) -> bool:
    """Whether a published network lies there."""
    return (pathlib.Path(folder) / FACTS).is_file()


def is_run(path: str | pathlib.Path) -> bool:
    """Whether it is a folder of ours, a workdir's or a published one, and not of others' weights.
    """
    path = pathlib.Path(path)
    return path.is_dir() and (is_published(path) or files.find(path) is None)


def output(
    workdir: str | pathlib.Path, given: str | pathlib.Path | None, beneath: str = ""
) -> pathlib.Path:
    """Where to write what is made of a run: as given, else beneath its workdir.

    Raises:
      UserError: nothing given, and the run is a published one, which stays as it is.
    """
    if given:
        return pathlib.Path(given).expanduser()
    if is_published(workdir):
        raise UserError(
            f"{workdir} is a published network and stays as it is: give --output=FOLDER"
        )
    return pathlib.Path(workdir) / beneath


# ---- writing


def write(
    folder: pathlib.Path, config: Mapping[str, Any], meta: Mapping[str, Any],
    variables: Mapping[str, Mapping[str, Any]], step: int, seen: Mapping[str, Any],
    golden: Mapping[str, np.ndarray], tolerance: float,
) -> None:
    """Writes all but the card and what goes with the answers.

    Args:
      folder: that there is, and that is empty.
      config: JSON-able; as meta without whatever shall not be published.
      variables: {network: {params, batch_stats}}.
      seen: the account, hidden.
      golden: {'film': u8[N,H,W,1], network: probabilities f64[N,K]}.
      tolerance: by which a probability of a golden film may differ on another machine.
    """
    flat = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    save_file({k: np.ascontiguousarray(v) for k, v in flat.items()}, folder / ARRAYS,
              {"format": "cxrjax"})
    save_file({k: np.ascontiguousarray(v) for k, v in golden.items()}, folder / GOLDEN)
    (folder / SEEN).write_text(json.dumps(seen) + "\n")
    facts = {
        "format": FORMAT, "step": step, "networks": sorted(variables), "config": dict(config),
        "meta": dict(meta), "golden": {"tolerance": tolerance, **_machine()},
    }
    for name in (ARRAYS, GOLDEN):  # safetensors makes them readable for their owner alone
        (folder / name).chmod((folder / SEEN).stat().st_mode)
    facts["checksums"] = {
        "arrays": checksums_of(variables),
        "files": {name: _sha256(folder / name) for name in (SEEN, GOLDEN)},
        "facts": checksum_of(facts),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def _machine() -> dict[str, str]:
    return {"platform": jax.default_backend(), "jax": jax.__version__}


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- reading


def read(
    folder: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], int]:
    """Config (`names.guarded`), meta, {network: {params, batch_stats}} and step.

    Raises:
      UserError: a file is missing, damaged, or of a later format.
    """
    folder = pathlib.Path(folder)
    facts = _facts(folder)
    config = guarded(in_todays_names(facts["config"]), folder)
    meta = dict(facts["meta"])
    try:
        meta["seen"] = json.loads((folder / SEEN).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder / SEEN, type(error).__name__) from None
    tensors = files.load_state_dict(folder / ARRAYS)
    sums, flat = facts["checksums"]["arrays"], {}
    if set(tensors) != set(sums):
        raise _damaged(folder / ARRAYS, "it holds other arrays than were published")
    for name in sums:
        flat[tuple(name.split("/"))] = jnp.asarray(np.asarray(tensors[name]))
    variables = traverse_util.unflatten_dict(flat)
    if different := [k for k, v in checksums_of(variables).items() if sums[k] != v]:
        raise _damaged(folder / ARRAYS, f"{different[0]} is not what was published")
    if sorted(variables) != facts["networks"]:
        raise _damaged(folder / FACTS, "it names other networks than it holds")
    return config, meta, variables, facts["step"]


def _facts(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / FACTS
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("too large")
        facts = json.loads(path.read_text())
        if facts["format"] > FORMAT:
            raise UserError(
                f"{path}: published by a later version of cxrjax (format {facts['format']}, known "
                f"is {FORMAT}): install that one"
            )
        if wrong := [k for k, kind in _KEYS.items() if type(facts[k]) is not kind]:
            raise ValueError(f"{wrong[0]} is no {_KEYS[wrong[0]].__name__}")
        sums = facts["checksums"]
        own = {k: v for k, v in facts.items() if k != "checksums"}
        if sums["facts"] != checksum_of(own):
            raise ValueError("its facts are not those that were published")
        for name, digest in sums["files"].items():
            if name not in (SEEN, GOLDEN) or _sha256(folder / name) != digest:
                raise ValueError(f"{name} is not the one that was published")
        if not isinstance(sums["arrays"], dict):
            raise ValueError("no checksums of its arrays")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"no {error.filename}" if isinstance(error, FileNotFoundError) else str(error)
        raise _damaged(path, " ".join(said.split())[:200]) from None
    return facts


def _damaged(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): fetch or publish it again")


# ---- the golden pair


def golden_films(folder: str | pathlib.Path) -> UInt8[np.ndarray, "n h w c"]:
    """The films of the golden pair."""
    path = pathlib.Path(folder) / GOLDEN
    film = files.load_state_dict(path).get("film")
    if film is None or len(film.shape) != 4 or film.dtype != np.uint8:
        raise _damaged(path, "no films u8[n, h, w, 1]")
    return np.asarray(film)


def check_golden(
    folder: str | pathlib.Path, found: Mapping[str, Float[np.ndarray, "n k"]]
) -> float:
    """The largest difference between the probabilities found for the golden films and theirs.

    Args:
      found: {answer: probabilities}.

    Raises:
      UserError: it is larger than the publisher said it may be; other answers.
    """
    folder = pathlib.Path(folder)
    facts, path = _facts(folder)["golden"], folder / GOLDEN
    theirs = {k: np.asarray(v) for k, v in files.load_state_dict(path).items() if k != "film"}
    if set(theirs) != set(found) or any(theirs[k].shape != found[k].shape for k in theirs):
        raise _damaged(path, f"it answers as {', '.join(sorted(theirs))}, the network as "
                             f"{', '.join(sorted(found))}")
    worst = max(float(np.max(np.abs(theirs[k] - found[k]))) for k in theirs)
    here = _machine()
    if not worst <= facts["tolerance"]:
        there = ", ".join(f"{k} {facts.get(k)}, here {v}" for k, v in here.items())
        raise UserError(
            f"{folder}: the network does not answer as it did where it was published: a "
            f"probability of its golden film differs by {worst:.3g} ({there}); at most "
            f"{facts['tolerance']:g} is expected"
        )
    return worst
