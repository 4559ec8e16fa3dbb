"""Which films a run, and all that it came from, was trained and tuned on.

On them it may neither be judged nor teach. Every checkpoint carries the account, `meta['seen']`:

    {'entries': [{'who', 'trained': films, 'tuned': films}, ...], 'unknown': [text, ...]}

Films are {'films': what they are (`sets.identities`), 'content': hashes of their pixels,
'patients'}. The first entry is the run's own; the others are those of the runs that it began from
(`init_from`, a network's `init_from`), was taught by (teachers) or was grouped by, and of all that
these came from. 'tuned' are the validation films, which chose the checkpoint and the thresholds.
What cannot be known (a weights file) stands in 'unknown'. Of a published network an entry is
'hashed' (`hidden`): no film and no patient is named, yet whoever has them is told.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from cxrjax.data.sets._origins import NIH, identities, nih_patient
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.models.weights import hub
from cxrjax.training import checkpoint, published

HELD_OUT = ("val", "test")
_HASH = 16  # hexadecimal digits of a content hash that are kept: 64 bits
# What a network's films are like, whatever their size.
_PREPARED = (("normalize", "mean"), ("normalize", "std"), ("dataset", "fit"),
             ("dataset", "remove_artifacts"))
_KINDS = {"trained": "train", "tuned": "val"}
# Of these sets an id says nothing beyond one table: films of one id are one if their pixels are.
_LOCAL = ("table",)


def leaked(trained: Collection[str], films: Films) -> dict[str, list[str]]:
    """The films of each held-out split that were trained on, sorted; none without such a split.

    Args:
      trained: ids of the films that were trained on.
      films: a data set, split for something else.
    """
    found = {
        split: sorted(set(trained).intersection(films.table["id"][films.splits[split]].tolist()))
        for split in HELD_OUT
    }
    return {split: ids for split, ids in found.items() if ids}


def check_not_trained_on(trained: Collection[str], films: Films, who: str, why: str) -> None:
    """Raises UserError where `leaked` finds a film.

    Args:
      trained: ids of the films that `who` was trained on.
      films: see `leaked`.
      who: begins the sentence, as 'the run in runs/a'.
      why: ends it: how this came about, or what it would spoil.
    """
    for split, ids in leaked(trained, films).items():
        raise UserError(
            f"{who} was trained on {len(ids)} films of the {split} split (first: {ids[0]}): {why}"
        )


def account(config: Any, films: Films) -> dict[str, Any]:
    """What goes into the checkpoints of a new run; other runs' accounts are read from theirs.

    Raises:
      UserError: a run that the config names cannot be read.
    """
    own = {"who": "the run", **{
        kind: _films(config["dataset"]["name"], films, split) for kind, split in _KINDS.items()
    }}
    entries, unknown = [own], []
    for how, origin, which in origins(config):
        if not _is_ours(origin):
            unknown.append(f"{origin} ({how}), weights of unknown origin: what they were trained "
                           "on is not known")
            continue
        theirs, meta = checkpoint.restore_variables(origin, which)[:2]
        seen = of_run(theirs, meta)
        for entry in seen["entries"]:
            who = f"{origin} ({how})"
            if entry is not seen["entries"][0]:
                who += f", by {entry['who']}"
            if all({**entry, "who": ""} != {**other, "who": ""} for other in entries[1:]):
                entries.append({**entry, "who": who})
        unknown += [f"{origin} ({how}), by {text}" for text in seen["unknown"]]
    return {"entries": entries, "unknown": unknown}


def _is_ours(origin: str) -> bool:
    return published.is_run(published.located(origin))


def prepared_otherwise(config: Any) -> list[str]:
    """How runs that a run begins from saw films prepared otherwise than its own."""
    said = []
    for how, origin, which in origins(config):
        if not how.startswith("init_from") or not _is_ours(origin):
            continue
        theirs = checkpoint.restore_variables(origin, which)[0]
        different = []
        for part, field in _PREPARED:
            a, b = ((c.get(part) or {}).get(field) for c in (theirs, config))
            if a != b:
                different.append(f"{part}.{field} was {a!r} there and is {b!r} here")
        if different:
            said.append(f"the weights of {origin} ({how}) know films prepared otherwise: "
                        f"{'; '.join(different)}")
    return said


def continued(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The account of a run that goes on: what it came from as it was saved, its own films anew.

    Args:
      saved: from `of_run` of its checkpoint.
      now: the account of its films, as `account` of a config without origins.
    """
    before, own = saved["entries"][0], now["entries"][0]
    joined = {kind: {key: sorted({*before[kind][key], *own[kind][key]}) for key in own[kind]}
              for kind in _KINDS}
    return {"entries": [{"who": own["who"], **joined}, *saved["entries"][1:]],
            "unknown": saved["unknown"]}


def of_run(config: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The account that a checkpoint carries; of an older one what its ids say."""
    if "seen" in meta:
        return meta["seen"]
    name = config["dataset"]["name"]
    own = {kind: {"films": [f"{name}/{i}" for i in meta["ids"][split]], "content": [],
                  "patients": []} for kind, split in _KINDS.items()}
    unknown = [f"{origin} ({how}), which an earlier version of cxrjax did not account for"
               for how, origin, _ in origins(config)]
    return {"entries": [{"who": "the run", **own}], "unknown": unknown}


def origins(config: Any) -> Iterator[tuple[str, str, str]]:
    """(how, workdir or file, checkpoint) of all that a completed config begins from."""
    networks = config.get("networks") or {}
    own = {name: str(net["init_from"] or "") for name, net in networks.items()
           if "init_from" in net}
    common = str(config.get("init_from") or "")
    if common and (not own or common in own.values()):
        yield "init_from", common, "best"
    for name, path in own.items():
        if path and path != common:
            yield f"init_from of {name}", path, "best"
    scheme = config.get("scheme") or {}
    for workdir in scheme.get("teachers") or ():
        yield "teacher", str(workdir), scheme.get("teacher_checkpoint") or "best"
    if scheme.get("workdir"):
        yield "groups", str(scheme["workdir"]), scheme.get("checkpoint") or "best"


def overlaps(
    seen: Mapping[str, Any], films: Films, name: str, split: str, elsewhere: bool = False
) -> list[dict[str, Any]]:
    """Who saw films of a held-out split, and which.

    Of the validation split only what was trained on counts: it is there to tune on.

    Args:
      seen: from `of_run`.
      films: to be judged on.
      name: of their data set.
      split: 'train' (held out from nobody), 'val' or 'test'.
      elsewhere: these are not the films of the run's own data set, even if they are called so.

    Returns:
      [{'who', 'how': 'trained' | 'tuned', 'films': ids, 'patients': how many further films are of
      patients that were seen}, ...]. A split that does not keep the patients of its own training
      films apart is not asked about the others' patients.
    """
    if split not in HELD_OUT or not len(films.splits[split]):
        return []
    ids = np.asarray(films.table["id"])[films.splits[split]].astype(str)
    here = _films(name, films, split, sort=False)
    masked = {key: hashes(values) for key, values in here.items()}
    own = set(_films(name, films, "train")["patients"])
    apart = not own.intersection(here["patients"])
    found = []
    for number, entry in enumerate(seen["entries"]):
        asked = masked if entry.get("hashed") else here
        for kind in _KINDS if split == "test" else ("trained",):
            theirs = {key: set(values) for key, values in entry[kind].items()}
            same = np.array([f in theirs["films"] for f in asked["films"]])
            pixels = np.array([c in theirs["content"] for c in asked["content"]] or same)
            # Ids of a table of one's own mean nothing elsewhere, where pixels can tell.
            other = number or elsewhere
            local = other and name in _LOCAL and asked["content"] and theirs["content"]
            film = pixels if local else same | pixels
            patient = np.zeros(len(ids), bool)
            if other and apart and here["patients"] and name not in _LOCAL:
                patient = np.array([p in theirs["patients"] for p in asked["patients"]]) & ~film
            if film.any() or patient.any():
                found.append({"who": entry["who"], "how": kind, "films": sorted(ids[film]),
                              "patients": int(patient.sum())})
    return found


def hashes(values: Iterable[str]) -> list[str]:
    """What stands in a published account for a film or a patient: 64 bits of its SHA-256."""
    return [hashlib.sha256(f"cxrjax:{v}".encode()).hexdigest()[:_HASH] for v in values]


def hidden(seen: Mapping[str, Any]) -> dict[str, Any]:
    """The account for the public: hashes, and no name of a folder.

    Films and patients of public sets are hashes of the names that the set's publisher gave them. A
    hash of a hospital's own number would be no secret, as all numbers can be tried: of a table of
    one's own, or a data set of one's own code, films are known by their pixels alone (whoever holds
    a film can ask for it), and patients not at all.
    """
    entries, unknown = [], [without_folders(text) for text in seen["unknown"]]
    for entry in seen["entries"]:
        out: dict[str, Any] = {"who": without_folders(entry["who"]), "hashed": True}
        for kind in _KINDS:
            theirs = entry[kind]
            if not entry.get("hashed"):
                named = {key: [v for v in theirs[key] if is_public(v.partition("/")[0])]
                         for key in ("films", "patients")}
                if theirs["films"] and not named["films"] and not theirs["content"]:
                    unknown.append(f"{out['who']}, {kind} on films of the publisher's own whose "
                                   "pixels were not recorded: which they are is not known")
                theirs = {key: sorted(set(hashes(values))) for key, values in
                          {**named, "content": theirs["content"]}.items()}
            out[kind] = {key: list(theirs[key]) for key in ("films", "content", "patients")}
        entries.append(out)
    return {"entries": entries, "unknown": unknown}


def is_public(name: str) -> bool:
    """Whether films of the data set `name` have names that its publisher gave them."""
    return ":" not in name and name not in _LOCAL


def without_folders(text: str) -> str:
    """What `account` says of origins, the last part alone of each path; names on the hub stay."""
    def last(match: re.Match) -> str:
        path = match[2]
        return match[1] + (path if hub.is_reference(path) else os.path.basename(path.rstrip("/")))

    return re.sub(r"(^|, by )((?:(?!, by ).)*?)(?= \((?:init_from|teacher|groups))", last, text)


def sentence(found: Mapping[str, Any], split: str) -> str:
    """One of `overlaps` in words."""
    parts = []
    if found["films"]:
        parts.append(f"{len(found['films']):,} films of the {split} split (first: "
                     f"{found['films'][0]})")
    if found["patients"]:
        parts.append(f"other films of the patients of {found['patients']:,} films of the {split} "
                     "split")
    return f"{found['who']} was {found['how']} on {' and on '.join(parts)}"


def not_judgeable(seen: Mapping[str, Any], films: Films, name: str) -> list[str]:
    """What a training says at once: on which splits it will not be judged, and why."""
    said = [f"this run will not be judgeable on the {split} split: {sentence(found, split)}"
            for split in HELD_OUT for found in overlaps(seen, films, name, split)]
    return said + [f"this run begins from {text}" for text in seen["unknown"]]


def _films(name: str, films: Films, split: str, sort: bool = True) -> dict[str, list[str]]:
    """What the films of a split are; each list is empty where the data set does not say."""
    table = {k: np.asarray(films.table[k])[films.splits[split]]
             for k in ("id", "content", "patient", "origin_id") if k in films.table}
    content = [str(c)[:_HASH] for c in table.get("content", ())]
    patients = [f"{name}/{p}" for p in table.get("patient", ())]
    for i, origin in enumerate(table.get("origin_id", ())):
        source, _, file = str(origin).partition("/")
        if patients and source == NIH and nih_patient(file):
            patients[i] = f"{NIH}/{nih_patient(file)}"
    found = {"films": identities(table, name).tolist() if len(table["id"]) else [],
             "content": content, "patients": patients}
    return {key: sorted(set(values)) if sort else values for key, values in found.items()}
