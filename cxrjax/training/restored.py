"""A trained network from its workdir alone, ready to predict."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import FrozenConfigDict

from cxrjax.errors import UserError
from cxrjax.names import refuse_paths, refuse_untrusted, scheme_of, trusting
from cxrjax.training import checkpoint, experiment, resume, steps


@dataclasses.dataclass(frozen=True)
class Run:
    """A restored training.

    Attributes:
      config: the completed config it was trained with.
      meta: labels, split, ids trained on, data set facts, versions.
      states: {network name: EvalState}.
      step: of the checkpoint.
      predict: (states, image) -> {name: outputs}, uncompiled, from the scheme.
    """

    config: Any
    meta: Mapping[str, Any]
    states: Mapping[str, steps.EvalState]
    step: int
    predict: Any

    def __repr__(self) -> str:  # the states' own would be all their numbers
        sizes = ", ".join(
            f"{name} ({sum(x.size for x in jax.tree.leaves(state.params)):,} parameters)"
            for name, state in self.states.items()
        )
        return f"Run(scheme {self.config.scheme.name}, step {self.step}: {sizes})"


def restore(
    workdir: str | pathlib.Path | None, which: str = "best", tta: bool = False,
    trust: str | Sequence[str] = (),
) -> Run:
    """The run that trained in `workdir`.

    Args:
      workdir: of the training.
      which: checkpoint, 'best' or 'latest'.
      tta: predict the mean over each film and its mirror image.
      trust: modules outside of cxrjax that its config may name, as 'my_lab,other'; they are
        imported.

    Raises:
      UserError: no workdir, no such checkpoint in it, a config that names code that is not trusted,
        or a mirror image asked of a network that was not trained on mirrored films.
    """
    if not workdir:
        raise UserError("give --workdir=FOLDER of a training")
    with trusting(trust):
        config, meta, variables, step = checkpoint.restore_variables(workdir, which)
    refuse_untrusted(config)
    refuse_paths([*variables, *(config.get("networks") or {})], workdir)
    config["dataset"].setdefault("reading", resume.ADDED["dataset.reading"])
    config = FrozenConfigDict(experiment.as_tuples(config))
    states = {
        name: steps.EvalState(
            params=tree["params"],
            batch_stats=tree.get("batch_stats", {}),
            ema_params=tree.get("ema_params"),
        )
        for name, tree in variables.items()
    }
    scheme = scheme_of(config)
    predict = scheme.make_predict(config)
    if tta:
        if not config.augment.get("flip"):
            raise UserError(
                f"--tta: {workdir} was not trained on mirrored films (config.augment.flip)"
            )
        predict = steps.with_mirror(predict)
    return Run(config, meta, states, step, predict)
