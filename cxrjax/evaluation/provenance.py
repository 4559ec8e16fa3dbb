"""The films that a run may be judged on: those of its data set, held out as they were."""

from __future__ import annotations

from absl import logging

from cxrjax.data import sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training import provenance
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


def refuse_seen(
    run: Run, films: Films, split: str, allow_seen: bool = False, name: str | None = None,
    elsewhere: bool = False,
) -> str:
    """What is to be said of films of the split that the run, or what it came from, has seen.

    Args:
      run: to be judged.
      films: of the data set.
      split: that it shall be judged on.
      allow_seen: say it instead of refusing.
      name: of the data set, if it is not the run's own.
      elsewhere: whether the films are another data set's, whatever its name.

    Returns:
      '' where nothing of it was seen and all that the run came from is known.

    Raises:
      UserError: films or patients of the split were trained or tuned on.
    """
    seen = provenance.of_run(run.config, run.meta)
    found = provenance.overlaps(seen, films, name or run.config.dataset.name, split, elsewhere)
    said = [provenance.sentence(one, split) for one in found]
    if said and not allow_seen:
        raise UserError(
            f"{'; '.join(said)}: figures on them say nothing of other films. --allow_seen gives "
            "them all the same, marked as such"
        )
    words = [f"SEEN IN TRAINING: {'; '.join(said)}"] if said else []
    words += [f"the run began from {text}" for text in seen["unknown"] if split != "train"]
    return ". ".join(words)


def mark(seen: str) -> str:
    """What follows a heading or a name where `refuse_seen` said that films were seen; else ''."""
    return " (films SEEN IN TRAINING)" if "SEEN" in seen else ""


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
