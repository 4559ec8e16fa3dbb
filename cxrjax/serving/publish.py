"""A trained run as a folder to give away, or a repository on the hub: `--mode=publish`.

What it holds and how it is read back is said in `training.published`. What is left out: optimizer
states, folders and file names of this machine, and every name of a film or patient
(`provenance.hidden`). The golden films are drawn, no patient's.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cxrjax import __version__
from cxrjax.data.progress import say
from cxrjax.data.sets import phantom
from cxrjax.data.sets.phantom import dataset as drawn
from cxrjax.errors import UserError
from cxrjax.evaluation import answers
from cxrjax.models.weights import hub
from cxrjax.names import program
from cxrjax.serving import card
from cxrjax.tables import finite
from cxrjax.training import experiment, provenance, published, restored

# Of the data set's facts, those that are numbers or the publisher's own words.
_FACTS = ("protocol", "split", "counts", "positives", "prevalence", "left_out", "fingerprint",
          "seed", "labels_version", "preprocessing", "views", "patients_known", "films_with_mask")
_PATHS = ("raw_dir", "data_dir", "prepared", "lists", "val_list", "table", "init_from", "workdir",
          "teachers")
_EMPTY = {"raw_dir": "", "data_dir": "data", "prepared": ""}
_ABSOLUTE = re.compile(r"^(~?/|[A-Za-z]:[\\/])")
# How far a probability of a golden film may be from the publisher's: by the width of the numbers
# that the network computes with, and because a GPU rounds products otherwise than a CPU.
_TOLERANCE = {"float32": 0.01}
_LOW_PRECISION = 0.05
_GOLDEN_SEED, _GOLDEN_FILMS = 2015, 2


def main(
    workdir: str | None, to: str | None = None, checkpoint: str = "best",
    license: str | None = None, public: bool = False,
) -> None:
    """`--mode=publish`: writes a run to a new folder, or to a repository of the hub.

    Args:
      workdir: of the run.
      to: a folder that is not there or empty, or 'hub:USER/NAME'.
      checkpoint: 'best' or 'latest'.
      license: of the weights, as the hub writes it ('cc-by-4.0').
      public: whoever likes may read a repository that is made; else the owner alone.

    Raises:
      UserError: there is something at `to`, or it cannot be written.
    """
    if not to:
        raise UserError("give --to=FOLDER or --to=hub:USER/NAME")
    if hub.is_reference(to):
        wanted = hub.parse(to)
        if wanted.file or wanted.revision:
            raise UserError(f"--to={to}: name the repository alone: hub:USER/NAME")
    elif public:
        raise UserError("--public is for --to=hub:USER/NAME")
    else:
        check_target(pathlib.Path(to))
    place = published.located(workdir)
    run = restored.restore(place, checkpoint)
    say(f"writing the network, its card and golden films for {to}")
    if not hub.is_reference(to):
        write(run, place, pathlib.Path(to), checkpoint, license or "")
        print(f"published: {to}. Read {pathlib.Path(to) / card.NAME} before you pass it on. "
              f"Next: {program()} --mode=predict --workdir={to} --images=FILMS --output=new.csv")
        return
    with tempfile.TemporaryDirectory(prefix="cxrjax-publish-") as scratch:
        folder = pathlib.Path(scratch) / wanted.repo.rpartition("/")[2]
        write(run, place, folder, checkpoint, license or "", to)
        done = hub.upload(folder, to, f"Published by cxrjax {__version__}", not public)
    print(f"published: {done}. Read its card before you pass it on. "
          f"Next: {program()} --mode=predict --workdir={to} --images=FILMS --output=new.csv")


def check_target(folder: pathlib.Path) -> None:
    """Raises UserError where there is something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to={folder}: something is there already, and nothing is overwritten: "
                        "give another folder, or move that one away")


def write(
    run: restored.Run, workdir: pathlib.Path, folder: pathlib.Path, checkpoint: str = "best",
    license: str = "", name: str = "",
) -> None:
    """Publishes a run to a folder, whole or not at all; it is read back before it has its name.

    Args:
      run: restored from `workdir`, without mirror images.
      workdir: whose thresholds, calibration and evaluations go with it.
      folder: see `check_target`.
      checkpoint: that the run is of.
      license: of the weights; '' is said as such.
      name: by which others will load it; by default the folder's.
    """
    check_target(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        variables = {n: _evaluated(state) for n, state in run.states.items()}
        config, meta = config_for_others(run), meta_for_others(run)
        seen = provenance.hidden(provenance.of_run(run.config, run.meta))
        published.write(partial, config, meta, variables, run.step, seen, _golden(run),
                        _TOLERANCE.get(_precision(config), _LOW_PRECISION))
        (partial / "config.json").write_text(json.dumps(_for_other_programs(run), indent=1) + "\n")
        again = restored.restore(partial)  # golden films and all
        _answers(run, again, workdir, partial, checkpoint)
        reports = card.reports_of(workdir, run.step, checkpoint)
        text = card.text(again, reports, license, name or folder.name,
                         answers.read_answers(partial, again))
        (partial / card.NAME).write_text(text)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _evaluated(state: Any) -> dict[str, Any]:
    """What prediction reads of a state: averaged weights in the place of the last ones."""
    params = state.params if state.ema_params is None else state.ema_params
    return {"params": params, **({"batch_stats": state.batch_stats} if state.batch_stats else {})}


def _precision(config: Any) -> str:
    """The least precise numbers that a network of the config computes with."""
    networks = [config.get("model") or {}, *(
        n.get("model") or n for n in (config.get("networks") or {}).values())]
    kinds = {str(n.get("dtype") or "float32") for n in networks}
    return "float32" if kinds == {"float32"} else "other"


def _golden(run: restored.Run) -> dict[str, np.ndarray]:
    """Drawn films of the run's size, and its own probabilities of them."""
    side = run.config.image_shape[0]
    films = np.stack([drawn.render(_GOLDEN_SEED, i, side, findings=phantom.LABELS[i::3])["image"]
                      for i in range(_GOLDEN_FILMS)])
    return {"film": films, **restored.answers(run, films)}


# ---- what others may read


def config_for_others(run: restored.Run) -> dict[str, Any]:
    """The config without this machine's folders: the last part alone of what was a path."""
    return _without_paths(experiment.config_json(run.config))


def _without_paths(tree: Any, key: str = "") -> Any:
    if isinstance(tree, Mapping):
        return {k: _without_paths(v, k) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_paths(v, key) for v in tree]
    if not isinstance(tree, str) or hub.is_reference(tree):
        return tree
    if key in _EMPTY:
        return _EMPTY[key]
    if key in _PATHS or _ABSOLUTE.match(tree):
        return os.path.basename(tree.rstrip("/\\").replace("\\", "/"))
    return tree


def meta_for_others(run: restored.Run) -> dict[str, Any]:
    """The facts without names of films, patients and folders."""
    meta = run.meta
    found = {key: meta[key] for key in ("format", "labels", "task", "masks", "steps_per_epoch",
                                        "devices", "versions", "history") if key in meta}
    found["dataset"] = {k: _without_paths(v) for k, v in meta["dataset"].items() if k in _FACTS}
    found["ids"] = {split: [] for split in meta["ids"]}
    given = meta.get("published", {})
    found["published"] = {
        "ids": given.get("ids") or {split: digest_of(ids) for split, ids in meta["ids"].items()},
        "version": __version__,
    }
    if meta.get("changed"):
        found["changed"] = ["the films changed while it was trained"]
    if meta.get("recalibrated"):
        found["recalibrated"] = _without_folder_words(meta["recalibrated"])
    return finite(found)


def _without_folder_words(text: str) -> str:
    """'batch statistics of 64 films of /films/of/us as they are' without the folder."""
    return re.sub(r"( films of ).*( as they are)$",
                  lambda m: m[0] if m[0].endswith("the training split as they are")
                  else f"{m[1]}the publisher's own{m[2]}", text)


def digest_of(ids: list[str]) -> dict[str, Any]:
    """How many films, and a hash of their sorted ids: for whoever has the same list."""
    text = "\n".join(sorted(map(str, ids)))
    return {"films": len(ids), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _for_other_programs(run: restored.Run) -> dict[str, Any]:
    """`config.json`: what a program that knows nothing of cxrjax can tell of the network."""
    config = run.config
    return {
        "library_name": "cxrjax", "architectures": sorted(run.states),
        "num_classes": len(run.meta["labels"]), "task": run.meta["task"],
        "id2label": {str(i): label for i, label in enumerate(run.meta["labels"])},
        "image_size": config.image_shape[0], "in_chans": config.image_shape[2],
        "image_mean": config.normalize["mean"], "image_std": config.normalize["std"],
    }


def _answers(
    run: restored.Run, again: restored.Run, workdir: pathlib.Path, folder: pathlib.Path,
    checkpoint: str,
) -> None:
    """Thresholds and calibration that are the run's, bound to the published weights."""
    before, now = answers.weights_of(run), answers.weights_of(again)
    for name in (answers.THRESHOLDS, answers.CALIBRATION):
        try:
            kept = json.loads((workdir / name).read_text())
            own = kept["weights"] == before if "weights" in kept else kept["step"] == run.step
        except FileNotFoundError:
            continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{workdir / name} is damaged ({error}): delete it, or make it anew"
                            ) from None
        if not own:
            print(f"{workdir / name} is of other weights: it is not published")
            continue
        kept = {**_without_paths(kept), "weights": now, "checkpoint": "best"}
        (folder / name).write_text(json.dumps(finite(kept), indent=1) + "\n")
