"""How metrics are logged: JSON lines and TensorBoard events, side by side, and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from cxrjax.training.workdir import write_text


class Writer:
    """Appends scalars to `metrics.jsonl` and to TensorBoard events in a workdir.

    Args:
      workdir: an existing folder.
      resume_step: rows of later steps are removed first: a resumed run writes them again.
    """

    def __init__(self, workdir: str | pathlib.Path, resume_step: int = 0):
        import tensorboardX  # imports torch where there is one: seconds

        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        if self._path.exists():
            kept = [row for row in read(workdir) if row["step"] <= resume_step]
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=resume_step + 1
        )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row; nan and infinities become null in JSON, which knows neither."""
        row = {k: float(v) for k, v in values.items()}
        for name, value in row.items():
            self._board.add_scalar(name, value, step)
        finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Flushes both files."""
        self._file.close()
        self._board.close()


class Silent:
    """In the place of a `Writer` where another process writes."""

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` (none without it); lines that are damaged are left out."""
    path, rows = pathlib.Path(workdir) / "metrics.jsonl", []
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
