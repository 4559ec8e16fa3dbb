"""With what, when and how a judgement was made: what somebody needs to make it again."""

from __future__ import annotations

import datetime
import hashlib
import json
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cxrjax.data.sets.base import Films
from cxrjax.names import program
from cxrjax.tables import table
from cxrjax.training import devices, experiment
from cxrjax.training.restored import Run

_DIGITS = 16  # hexadecimal, of a hash


class Clock:
    """When a judgement began, in wall and in processor time.

    Attributes:
      networks: seconds until now in which networks answered (their compilation with it).
    """

    def __init__(self) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.networks = 0.0

    def of_networks(self, begun: float, waited: float) -> None:
        """Counts what was answered since `begun`, without the time that films were waited for."""
        self.networks += time.monotonic() - begun - waited


def facts(run: Run, films: Films, clock: Clock) -> dict[str, Any]:
    """JSON-able: versions, commit, date, command, device, times so far, seeds and hashes."""
    seeds = {"training": run.config.seed, "bootstrap": 0}
    if "seed" in run.config.dataset:
        seeds["data set"] = run.config.dataset.seed
    config = json.dumps(experiment.config_json(run.config), sort_keys=True)
    return {
        "versions": experiment.versions(), "commit": commit(),
        "python": platform.python_version(), "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(), "device": devices.describe(jax.devices(), jax.process_count()),
        "seeds": seeds,
        "hashes": {
            "weights": weights_hash(run.states), "config": _digits(hashlib.sha256(config.encode())),
            "films": str(films.info.get("fingerprint", "")),
        },
        "wall seconds": round(time.monotonic() - clock.wall, 1),
        "processor seconds": round(time.process_time() - clock.cpu, 1),
        "network seconds": round(clock.networks, 2),
    }


def command() -> str:
    """The command line; of a judgement called from Python, that."""
    if any(word.startswith("--mode") for word in sys.argv):
        return " ".join([program(sys.argv[0]), shlex.join(sys.argv[1:])])
    return "called from Python"


def commit() -> str:
    """The commit of the clone that this package lies in, 'changed since' where it is; '' without.
    """
    folder = pathlib.Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return ""

    def git(*words: str) -> str:
        found = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True,
                               timeout=10)
        return found.stdout.strip() if found.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = head and git("status", "--porcelain", "--untracked-files=no", "--", "cxrjax")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}, changed since" if changed else head


def weights_hash(states: Mapping[str, Any]) -> str:
    """Of all arrays of all networks, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(states):
        for path, leaf in jax.tree_util.tree_leaves_with_path(states[name]):
            digest.update(f"{name}{jax.tree_util.keystr(path)}".encode())
            digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return _digits(digest)


def file_hash(path: pathlib.Path) -> str:
    """SHA-256 of a file, shortened."""
    with path.open("rb") as file:
        return _digits(hashlib.file_digest(file, "sha256"))


def _digits(digest: Any) -> str:
    return digest.hexdigest()[:_DIGITS]


def lines(run: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """The section of a report."""
    versions = made["versions"]
    rows = [
        ["date", made["date"]], ["command", f"`{made['command']}`"],
        ["cxrjax", versions["cxrjax"] + (f", commit {made['commit']}" if made["commit"] else "")],
        ["other versions", ", ".join(f"{k} {v}" for k, v in versions.items() if k != "cxrjax")],
        ["trained with", ", ".join(f"{k} {v}" for k, v in run["trained_with"].items())],
        ["Python, system", f"{made['python']}, {made['system']}"], ["device", made["device"]],
        ["time", f"{made['wall seconds']:,.0f} s on the clock, {made['processor seconds']:,.0f} s "
                 "of the processors, until this page was written"
                 + (f"; {made['network seconds']:,.0f} s on the clock were the networks' own"
                    if "network seconds" in made else "")],
        ["seeds", ", ".join(f"{k} {v}" for k, v in made["seeds"].items())],
        *([f"hash of the {k}", f"`{v}`"] for k, v in made["hashes"].items() if v),
    ]
    return table(["", ""], [[what, str(cell).replace("|", "\\|")] for what, cell in rows])
