"""A trained run in a program or a notebook: `cxrjax.load("runs/phantom")`."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.data import films_on_disk, input_pipeline, reading
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate
from cxrjax.evaluation.answers import read_answers
from cxrjax.explanation import explain
from cxrjax.names import suggest
from cxrjax.training import published, steps
from cxrjax.training.restored import Run, restore

Path = str | os.PathLike[str]
# One film or many: a file, a folder, a pattern, a list of files, or pixels u8[H, W], u8[N, H, W].
Films = Path | Sequence[Path] | np.ndarray


class Loaded:
    """A trained run: it predicts, is evaluated and explained.

    Attributes:
      workdir: of the training.
      run: config, facts and weights, see `training.restored.Run`.
      labels: names of the K labels.
      networks: names of its answers; the first one answers where none is named.
      answers: how logits become probabilities (calibrated where the run is), and its thresholds.
    """

    def __init__(
        self, workdir: Path, run: Run, which: str = "best", trust: str | Sequence[str] = ()
    ):
        self.workdir, self.run, self._which = pathlib.Path(workdir), run, which
        self._trust = trust
        self.labels = tuple(run.meta["labels"])
        self.answers = read_answers(run.workdir, run)
        self._mesh = steps.make_mesh()
        self._predict = steps.jit_predict(run.predict, self._mesh)
        self.networks = tuple(steps.answers_of(run.predict, run.states, run.config))

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:4]) + ", ..." * (len(self.labels) > 4)
        return (
            f"cxrjax run {self.workdir}, step {self.run.step}: {', '.join(self.networks)}\n"
            f"  {len(self.labels)} labels ({self.run.meta['task']}): {shown}\n"
            f"  films of {self.run.config.image_shape[0]} px; "
            f"{self.run.meta['dataset'].get('protocol', self.run.config.dataset.name)}"
        )

    def predict(
        self, films: Films, network: str | None = None, strict: bool = False
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Probabilities of films, by label; calibrated ones where the run is calibrated.

        Args:
          films: a file, a folder, a pattern or a list of files (DICOM, pictures), in the order of
            which the answers come (a folder's is by name); or 8-bit gray pixels [H, W] or
            [N, H, W] of any size, white = dense. They are prepared as the films of the training.
          network: which answer, one of `networks`.
          strict: refuse films that are unusual for a chest radiograph; else Python's `warnings`
            name them, as they name files of a folder that are no films.

        Raises:
          UserError: a film that cannot be read, or pixels that are no film.
        """
        name = network or self.networks[0]
        if name not in self.networks:
            raise UserError(f"no network {name!r} in this run" + suggest(name, self.networks))
        ready = list(self._prepared(films, strict))
        size = min(self.run.config.eval_batch_size, -(-len(ready) // self._mesh.size)
                   * self._mesh.size)
        batches = input_pipeline.batches(ready, size)
        _, outputs = steps.predict_all(self._predict, self.run.states, batches, self._mesh)
        probabilities = self.answers.probabilities(name, outputs[name]["logits"])
        return dict(zip(self.labels, probabilities.T))

    def evaluate(self, split: str = "test", **options: Any) -> dict[str, Any]:
        """The report of one split, as `--mode=evaluate` writes it; see `evaluation.evaluate`."""
        return evaluate.evaluate(
            self.workdir, self._which, split, **{"trust": self._trust, **options}
        )

    def explain(self, images: str | None = None, **options: Any) -> dict[str, Any]:
        """Pictures and scores, as `--mode=explain` writes them; see `explanation.explain`."""
        return explain.explain(
            str(self.workdir), images, self._which, **{"trust": self._trust, **options}
        )[0]

    def _prepared(self, films: Films, strict: bool) -> Iterator[tuple[str, np.ndarray]]:
        side, options = self.run.config.image_shape[0], self.run.config.dataset.to_dict()
        if isinstance(films, np.ndarray):
            if films.dtype != np.uint8 or films.ndim not in (2, 3):
                raise UserError(
                    f"pixels must be uint8 [H, W] or [N, H, W], not {films.dtype}"
                    f"{list(films.shape)}: scale films of more bits to 0..255 first"
                )
            for i, film in enumerate(films[None] if films.ndim == 2 else films):
                try:
                    reading.look_at(film)
                except UserError as error:
                    raise UserError(f"film {i} of the pixels: {error}") from None
                yield str(i), films_on_disk.as_prepared(film, side, options)
            return
        failures: films_on_disk.Failures = []
        skipped: films_on_disk.Failures = []
        facts: films_on_disk.Facts = {}
        if isinstance(films, str | os.PathLike):
            paths = films_on_disk.find_films(os.fspath(films), skipped)
        else:
            paths = [pathlib.Path(film) for film in films]
        read = films_on_disk.read_all(paths, side, options, failures, facts, strict)
        for path, _, ready in read:
            yield str(path), ready
        said = [(path, f"skipped: {why}") for path, why in skipped]
        said += [(path, "; ".join(f.warnings)) for path, f in facts.items() if f.warnings]
        for path, line in said:
            warnings.warn(f"{path}: {line}", stacklevel=3)
        if failures:
            path, why = failures[0]
            raise UserError(
                f"{len(failures)} of {len(paths)} films could not be read: {path}: {why}"
            )


def load(
    workdir: Path, which: str = "best", tta: bool = False, trust: str | Sequence[str] = ()
) -> Loaded:
    """The run that trained in `workdir`, from its files alone.

    Args:
      workdir: of the training; or a published network's folder or name, 'hub:USER/NAME'.
      which: checkpoint, 'best' or 'latest'.
      tta: predict the mean over each film and its mirror image.
      trust: modules outside of cxrjax that its config may name, as "my_lab"; they are imported.

    Raises:
      UserError: no run there, see `training.restored.restore`.
    """
    place = published.located(workdir)
    return Loaded(place, restore(place, which, tta, trust), which, trust)


def predict(
    workdir: Path, films: Films, trust: str | Sequence[str] = ()
) -> Mapping[str, Float[np.ndarray, " n"]]:
    """Probabilities by label of films, by the run in `workdir`; see `load`, `Loaded.predict`."""
    return load(workdir, trust=trust).predict(films)
