"""A trained network from its workdir alone, ready to predict."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import FrozenConfigDict

from cxrjax.data import input_pipeline
from cxrjax.errors import UserError
from cxrjax.metrics import ranking
from cxrjax.names import refuse_paths, refuse_untrusted, scheme_of, trusting
from cxrjax.training import checkpoint, experiment, published, resume, steps


@dataclasses.dataclass(frozen=True)
class Run:
    """A restored training.

    Attributes:
      config: the completed config it was trained with.
      meta: labels, split, ids trained on, data set facts, versions.
      states: {network name: EvalState}.
      step: of the checkpoint.
      predict: (states, image) -> {name: outputs}, uncompiled, from the scheme.
      workdir: that it was read from; None for a run made otherwise.
      tta: whether `predict` gives the mean over each film and its mirror image.
    """

    config: Any
    meta: Mapping[str, Any]
    states: Mapping[str, steps.EvalState]
    step: int
    predict: Any
    workdir: pathlib.Path | None = None
    tta: bool = False

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
    """The run that trained in `workdir`, or that was published there.

    A published one is asked for its golden films first.

    Args:
      workdir: of the training; or a published network's folder or name on the hub.
      which: checkpoint, 'best' or 'latest'.
      tta: predict the mean over each film and its mirror image.
      trust: modules outside of cxrjax that its config may name, as 'my_lab,other'; they are
        imported.

    Raises:
      UserError: no workdir, no such checkpoint in it, a config that names code that is not trusted,
        or a mirror image asked of a network that was not trained on mirrored films.
    """
    place = published.located(workdir)
    with trusting(trust):
        config, meta, variables, step = checkpoint.restore_variables(place, which)
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
    if published.is_published(place):
        films = published.golden_films(place)
        published.check_golden(place, answers(Run(config, meta, states, step, predict), films))
    if tta:
        if not config.augment.get("flip"):
            raise UserError(
                f"--tta: {workdir} was not trained on mirrored films (config.augment.flip)"
            )
        predict = steps.with_mirror(predict)
    return Run(config, meta, states, step, predict, place, tta)


def answers(
    run: Run, films: UInt8[np.ndarray, "n h w c"]
) -> dict[str, Float[np.ndarray, "n k"]]:
    """{answer: its own probabilities} of films that are prepared as the run's."""
    mesh = steps.make_mesh()
    batches = input_pipeline.batches(
        ((str(i), film) for i, film in enumerate(films)), -(-len(films) // mesh.size) * mesh.size
    )
    predict = steps.jit_predict(run.predict, mesh)
    _, outputs = steps.predict_all(predict, run.states, batches, mesh)
    return {name: ranking.probabilities(out["logits"], run.meta["task"])
            for name, out in outputs.items()}
