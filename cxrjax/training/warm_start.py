"""Initial weights from a file in torch's layout or from another run of ours: `config.init_from`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import traverse_util

from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.training import checkpoint, published


def begin(
    path: str | pathlib.Path, model: str, labels: Sequence[str], init: Callable[..., Any],
    arguments: Sequence[Any], name: str = "",
) -> dict[str, Any]:
    """The variables of a network that starts from `path`; see `load`.

    Only what `path` has nothing for is initialised, to the bit as all of it would be: a network and
    a whole second one never are in memory both.

    Args:
      init: (*arguments) -> {params, batch_stats}.
    """
    taken = load(path, model, labels, jax.eval_shape(init, *arguments), name)
    flat = traverse_util.flatten_dict(taken)
    fresh = [key for key, leaf in flat.items() if isinstance(leaf, jax.ShapeDtypeStruct)]
    if fresh:

        def initialised(*arguments: Any) -> dict[tuple[str, ...], Any]:
            every = traverse_util.flatten_dict(dict(init(*arguments)))
            return {key: every[key] for key in fresh}

        flat |= jax.jit(initialised)(*arguments)
    return traverse_util.unflatten_dict(flat)


def load(
    path: str | pathlib.Path, model: str, labels: Sequence[str], variables: Mapping[str, Any],
    name: str = "",
) -> dict[str, Any]:
    """`variables` with what `path` has for them; what it has not stays, and is logged.

    Args:
      path: a weights file (see `weights.load_state_dict`), or the workdir of a training: then its
        best checkpoint, EMA weights where it kept them. A published network, and a name on the hub
        ('hub:USER/NAME') of either.
      model: name of the network.
      labels: of the network's logits. A head trained on other labels is left as initialised.
      variables: {params, batch_stats}, or their shapes.
      name: under which the scheme keeps the network. Of a run with several networks the one of this
        name is taken, else the one called as `model`.

    Raises:
      UserError: nothing there, weights of another network, or several and none of these names.
    """
    place = published.located(path)
    if published.is_run(place):
        return _from_run(path, model, labels, variables, name)
    reading = weights.read(model, _tensors(place), variables, f"config.init_from = {path}")
    logging.warning("%s starts from %s: %s", model, path, reading.summary)
    for note in reading.notes:
        logging.warning("%s", note)
    return reading.variables


def _tensors(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        return weights.load_state_dict(path)
    except UserError as error:
        raise UserError(f"config.init_from = {path}: {error}") from error


def normalization(config: Any, saved: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`config.normalize` with its numbers: the config's own, or those of the weights started from.

    `source` is '' for mean and std as they stand, 'weights' for those of `config.init_from` (a file
    or a run); once they are filled in it says whose they are. Where the config's own differ from
    what the weights are known to want, a warning says so.

    Args:
      config: not completed yet.
      saved: the completed config of the run that goes on, whose numbers they then are.

    Raises:
      UserError: another source, no weights, or weights that do not say.
    """
    given = config.normalize
    given = {"source": given} if isinstance(given, str) else dict(given)
    source = given.get("source", "")
    if saved is not None:
        return dict(saved["normalize"]) if source else given
    start = str(config.get("init_from") or "")
    if source not in ("", "weights"):
        raise UserError(f"config.normalize.source = {source!r}: 'weights' or '' are known")
    if source and not start:
        raise UserError(
            "config.normalize.source = 'weights', but config.init_from is empty: name the weights, "
            "or set config.normalize.mean and .std"
        )
    scale = _scale(published.located(start)) if start else None
    if source:
        if scale is None:
            raise UserError(
                f"config.init_from = {start}: these weights do not say on which scale their films "
                "were: set config.normalize.mean and .std, and leave config.normalize.source empty"
            )
        mean, std, whose = scale
        logging.warning("films are normalised by mean %g and std %g (%s)", mean, std, whose)
        return {"mean": mean, "std": std, "source": f"weights: {whose}"}
    if scale is not None and not (
        abs(given["mean"] - scale[0]) < 0.02 and abs(given["std"] / scale[1] - 1) < 0.05
    ):
        logging.warning(
            "config.normalize has mean %g and std %g, but the weights of %s were trained with mean "
            "%g and std %g (%s): --config.normalize.source=weights takes theirs",
            given["mean"], given["std"], start, *scale,
        )
    return given


def _scale(path: pathlib.Path) -> tuple[float, float, str] | None:
    """(mean, std, whose) of a weights file or of a run's config."""
    if published.is_run(path):
        name = published.FACTS if published.is_published(path) else "config.json"
        try:
            theirs = json.loads((path / name).read_text())
            theirs = theirs.get("config", theirs)["normalize"]
            return float(theirs["mean"]), float(theirs["std"]), "the run it starts from"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    try:
        return weights.scale_of(path)
    except UserError as error:
        raise UserError(f"config.init_from = {path}: {error}") from error


def _from_run(
    workdir: str | pathlib.Path, model: str, labels: Sequence[str], variables: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    _, meta, networks, step = checkpoint.restore_variables(workdir, "best")
    wanted = [name, model.rpartition(":")[2], *(networks if len(networks) == 1 else ())]
    name = next((n for n in wanted if n in networks), "")
    if not name:
        raise UserError(
            f"config.init_from = {workdir}: the run has several networks, and none is called "
            f"{' or '.join(repr(n) for n in dict.fromkeys(wanted) if n)} "
            f"(they are {', '.join(networks)}): take a run of one network"
        )
    tree = dict(networks[name])
    found = {
        "params": tree.get("ema_params", tree["params"]),
        "batch_stats": tree.get("batch_stats", {}),
    }
    theirs = traverse_util.flatten_dict(found)
    modules = {key[1] for key in theirs}
    same_labels = list(meta["labels"]) == list(labels)
    out, kept, added, missing, wrong = {}, [], [], [], []
    for key, ours in traverse_util.flatten_dict(dict(variables)).items():
        out[key] = ours
        shown = "/".join(key[1:])
        if key[1].startswith("head") and not same_labels:
            kept.append(shown)
        elif key[1] == "decoder" and key[1] not in modules and "encoder" in modules:
            added.append(shown)
        elif key not in theirs:
            missing.append(shown)
        elif theirs[key].shape != ours.shape:
            wrong.append(f"{shown} ({theirs[key].shape}, not {ours.shape})")
        else:
            out[key] = jnp.asarray(theirs[key])
    if missing or wrong:
        faults = [f"missing: {', '.join(missing[:5])}"] * bool(missing)
        faults += [f"of another shape: {', '.join(wrong[:5])}"] * bool(wrong)
        raise UserError(
            f"config.init_from = {workdir}: its network {name!r} is not a {model!r}; "
            f"{len(missing)} arrays missing, {len(wrong)} of another shape ({'; '.join(faults)})"
        )
    logging.warning("%s starts from %s (%s, step %d)", model, workdir, name, step)
    if kept:
        logging.warning(
            "left as initialised, because the run knows other labels (%s): %s",
            ", ".join(meta["labels"]), ", ".join(kept),
        )
    if added:
        logging.warning(
            "left as initialised, because the run's network has no decoder: %d arrays, %s, ...",
            len(added), ", ".join(added[:3]),
        )
    return traverse_util.unflatten_dict(out)
