"""Weights that do not fit, in a few lines: where from, what they look like, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cxrjax.errors import UserError
from cxrjax.models.weights import recognise
from cxrjax.models.weights.torch_layouts import FAMILIES

NEAREST = 3  # names that an error shows of a kind
LONGEST = 90  # characters of a name in an error


class Misfit(UserError):
    """Weights that do not fit: a few lines, which the command line prints as they are."""

    keep_lines = True


def grouped(names: Any) -> list[str]:
    """"decoder.* (42)" for names that begin alike."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(_short(name))
    listed = [members[0] if len(members) == 1 else f"{_short(group)}.* ({len(members)})"
              for group, members in sorted(groups.items())]
    return listed[:12] + [f"and {len(listed) - 12} more"] * (len(listed) > 12)


def _short(name: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in str(name))
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - NEAREST} more" if len(found) > NEAREST else ""
    return ", ".join(_short(n) for n in found[:NEAREST]) + more


def nearest(names: Sequence[str], others: Sequence[str]) -> str:
    """For the first names the most alike of the others."""
    pairs = []
    others = list(others)[:2000]
    for name in names[:NEAREST]:
        close = difflib.get_close_matches(_short(name), [_short(o) for o in others], 1, 0.5)
        pairs += [f"{_short(name)} ~ {close[0]}"] if close else []
    return ", ".join(pairs)


def first_line(name: str, source: str) -> str:
    said = f"{source}: " if source else ""
    return f"{said}these weights do not fit {name!r}"


def looks(state_dict: Mapping[Any, Any], found: recognise.Found | None) -> str:
    """What a dict looks like, given what `recognise` made of it."""
    if found is not None:
        return recognise.in_words(found)
    tensors = max((t for _, t in recognise.state_dicts(state_dict)), key=len, default={})
    if not tensors:
        return "nothing that holds tensors by name"
    return f"none of the known layouts ({len(tensors)} tensors: {listed(list(tensors))})"


def advice(name: str, found: recognise.Found | None, only_values: bool = False) -> str:
    """What to do about it."""
    if only_values:
        return "the file seems damaged, or of another size of network: fetch it again, or choose " \
               "the network's options to match"
    if found is not None:
        network = recognise.network_of(found.layout.family, recognise.shapes_of(found))
        ours = re.sub(r"_patch\d+$", "", network)
        if ours in FAMILIES and ours != name:
            return f"choose that network: --config=FILE:{ours}"
        if ours not in FAMILIES and found.layout.family != FAMILIES[name]:
            return f"give weights of {name!r}; there is no network here for these"
    return "compare the names: the file may be damaged, or of a variant that is not known here"


def nothing_fits(
    name: str, state_dict: Mapping[Any, Any], wanted: Iterable[str], source: str
) -> Misfit:
    tensors = max((t for _, t in recognise.state_dicts(state_dict)), key=len, default={})
    names = sorted(wanted)
    found = recognise.recognise(state_dict)
    lines = [first_line(name, source), f"  it looks like: {looks(state_dict, found)}"]
    lines.append(f"  missing: {listed(names)}")
    if tensors:
        lines.append(f"  left over: {listed(sorted(tensors))}")
        if near := nearest(sorted(tensors), names):
            lines.append(f"  nearest names: {near}")
    lines.append(f"  {advice(name, found)}")
    return Misfit("\n".join(lines))
