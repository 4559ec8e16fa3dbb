"""Whether a run that goes on is still the run that began: its films, its labels, its machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging

from cxrjax.errors import UserError

SHOWN = 3  # ids in a message


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
