"""Whether a run that goes on is still the run that began: its config, films, labels, machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from cxrjax.errors import UserError
from cxrjax.training import experiment

SHOWN = 3  # ids in a message
# May differ between a workdir and a command that goes on with it: they do not change the run.
# The first of them may also differ between the processes of one training, on several machines.
PER_MACHINE = ("dataset.raw_dir", "dataset.data_dir", "dataset.preparing_threads", "threads",
               "cache_in_memory")
MAY_CHANGE = (*PER_MACHINE, "cache_on_device", "log_every", "eval_batch_size", "keep", "patience",
              "on_hub", "intended_use")
# Fields that runs of before have not, and the values that do what those runs did. An optimizer's
# are those of each network's as well.
ADDED: dict[str, Any] = {"dataset.reading": 1, "normalize.source": "",
                         "optimizer.layer_decay": 0.0, "optimizer.freeze": "",
                         "recalibrate": False, "cache_on_device": False}


def check_same(
    saved: Mapping[str, Any], now: dict[str, Any], workdir: str, allow_changed_films: bool = False
) -> None:
    """Compares the facts of a checkpoint with those of the training that goes on with it.

    Args:
      saved: `meta` of the checkpoint.
      now: `meta` of the training (`experiment.make_meta`); gains 'changed', what is said of earlier
        changes and, where films changed and that is allowed, of this one.
      workdir: of the run, for messages.
      allow_changed_films: go on, and mark the run.

    Raises:
      UserError: other labels; other films, unless they are allowed.
    """
    now["changed"] = list(saved.get("changed", ()))
    if list(saved["labels"]) != list(now["labels"]):
        raise UserError(
            f"{workdir} was trained for the labels {', '.join(saved['labels'])}, the films have "
            f"{', '.join(now['labels'])}: give another --workdir"
        )
    if differences := changed_films(saved, now):
        said = "; ".join(differences)
        if not allow_changed_films:
            raise UserError(
                f"the films are not those that {workdir} began with: {said}. Prepare those of "
                "before again, or go on with --allow_changed_films, which marks the run"
            )
        note = f"films changed at step {saved['history']['evaluations'][-1]['step']}: {said}" \
            if saved.get("history", {}).get("evaluations") else f"films changed: {said}"
        now["changed"].append(note)
        logging.warning("going on with other films than %s began with: %s", workdir, said)
    for what, before, after in [
        *((name, saved.get("versions", {}).get(name), version)
          for name, version in now["versions"].items()),
        ("devices", saved.get("devices"), now["devices"]),
    ]:
        if before is not None and before != after:
            logging.warning(
                "%s began with %s %s and goes on with %s: equal to rounding, not to the bit",
                workdir, what, before, after,
            )


def changed_films(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the films of two `meta`, in words; [] where nothing does."""
    differences = []
    for split, ids in now["ids"].items():
        before, after = set(saved["ids"].get(split, ())), set(ids)
        for what, some in (("new", after - before), ("gone", before - after)):
            if some:
                shown = ", ".join(sorted(some)[:SHOWN]) + ", ..." * (len(some) > SHOWN)
                differences.append(f"{len(some):,} films of {split} are {what} ({shown})")
    old, new = (meta["dataset"].get("fingerprint") for meta in (saved, now))
    if not differences and old is not None and new is not None and old != new:
        differences.append(f"their contents changed (fingerprint {old}, now {new})")
    return differences


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optimizer.name': 'adamw', ...} from nested dictionaries."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def with_added(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a flat config (`flat`), and those of `ADDED` that it was saved without.

    They stand wherever their section does: 'optimizer.freeze' beside every other field of an
    optimizer, a network's or a teacher's too; one without a section beside every `dataset`.
    """
    out = dict(fields)
    for added, value in ADDED.items():
        section = added.rpartition(".")[0]
        for key in fields:
            *places, _ = key.split(".")
            if (section or "dataset") in places:
                place = places[: places.index(section or "dataset")]
                out.setdefault(".".join([*place, added]), value)
    return out


def check_same_config(saved: Mapping[str, Any], given: Mapping[str, Any], workdir: str) -> None:
    """Raises UserError that lists every field in which a workdir's run differs from the config."""
    old, new = flat(experiment.as_tuples(saved)), flat(experiment.as_tuples(given))
    old, new = with_added(old), with_added(new)
    if new.get("total_steps", 0) > old.get("total_steps", 0):  # a run may be made longer
        old.update({k: new[k] for k in ("train_for", "total_steps")})
    different = [
        f"config.{k} was {old.get(k, '(absent)')!r}, is {new.get(k, '(absent)')!r}"
        for k in sorted(old.keys() | new.keys())
        if old.get(k, None) != new.get(k, None) and k not in MAY_CHANGE
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(different)}. "
            f"Give another --workdir, or the config of that run ({workdir}/config.json)"
        )


def reading_as_before(config: Any, saved: Mapping[str, Any] | None) -> Any:
    """The config of a run that goes on; it reads films as it did, also if it had no number for it.

    Args:
      config: as the user gives it today.
      saved: the completed config of the run; None where a run begins.
    """
    if saved is None or "reading" in saved["dataset"]:
        return config
    before = ADDED["dataset.reading"]
    if config.dataset.get("reading") != before:
        print(f"the run goes on with films as it read them (config.dataset.reading = {before})")
    config = ConfigDict(config).copy_and_resolve_references()
    with config.unlocked():
        config.dataset.reading = before
    return config
