"""The films that a run may be judged on: those of its data set, held out as they were."""

from __future__ import annotations

from absl import logging

from cxrjax.data import sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training.provenance import check_not_trained_on
from cxrjax.training.restored import Run


def open_films(run: Run, data_dir: str | None = None) -> Films:
    """The films that the run was trained on; a warning if they changed since.

    Raises:
      UserError: other labels, or films of the training split now in another one.
    """
    options = run.config.dataset.to_dict()
    if data_dir:
        options["data_dir"] = data_dir
    films = sets.load(options)
    if list(films.labels) != list(run.meta["labels"]):
        raise UserError(
            f"the run knows the labels {', '.join(run.meta['labels'])}, the films have "
            f"{', '.join(films.labels)}: they are not those it was trained for"
        )
    if difference := changed(run, films):
        logging.warning(difference)
    check_not_trained_on(
        run.meta["ids"]["train"], films, "the run",
        "the prepared films or the split changed since the training",
    )
    return films


def changed(run: Run, films: Films) -> str:
    """What is to be said where `films` may not be those of the training; '' where they are."""
    before, now = (facts.get("fingerprint") for facts in (run.meta["dataset"], films.info))
    if before == now:  # None for data sets that give no fingerprint
        return ""
    if before is None:
        return "the run does not say which films it was trained on: whether these are is not known"
    return (
        f"these are not the very films of the training: their fingerprint is {now}, it was "
        f"{before}. The raw folder, or the code that makes the films, changed in between"
    )
