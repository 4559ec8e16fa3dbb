"""What may be chosen of an explanation, checked against the run before anything slow begins."""

from __future__ import annotations

import dataclasses

from cxrjax.errors import UserError
from cxrjax.explanation import heatmaps
from cxrjax.names import suggest
from cxrjax.training.restored import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose; see the flags of the same names.

    Attributes:
      network: which answer is explained.
      method: one of `heatmaps.TITLES`.
      threshold: part of a map's maximum from which a region stands out.
      findings: numbers of the labels to show, None for the usual ones.
      max_films: films on a contact sheet.
      finer, spread: see `heatmaps.make`.
    """

    network: str
    method: str
    threshold: int | float
    findings: tuple[int, ...] | None
    max_films: int
    finer: int = 1
    spread: bool = False


def choose(
    run: Run, network: str | None, method: str, threshold: int | float,
    findings: str | None, max_films: int, finer: int = 1, spread: bool = False,
) -> Options:
    """The options as given on the command line, checked against the run.

    Raises:
      UserError: an unknown network, method or finding; a threshold or number out of range.
    """
    labels = list(run.meta["labels"])
    numbers = None
    if findings:
        for name in findings.split(","):
            if name not in labels:
                raise UserError(f"--findings: no finding {name!r}" + suggest(name, labels))
        numbers = tuple(labels.index(name) for name in findings.split(","))
    if not 0 < threshold <= 1:
        raise UserError(
            f"--threshold={threshold:g}: a part of the map's maximum, above 0 and at most 1"
        )
    if max_films < 1:
        raise UserError(f"--max_films={max_films}: at least one film a sheet")
    if method not in heatmaps.TITLES:
        raise UserError(f"unknown method {method!r}" + suggest(method, heatmaps.TITLES))
    answer = heatmaps.choose_network(run, network)
    return Options(answer, method, threshold, numbers, max_films, finer, spread)
