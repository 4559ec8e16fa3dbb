"""The figures of `--mode=benchmark --what=gpu` as Markdown.

    python -m cxrjax.benchmarks.gpu_table gpu.jsonl > docs/benchmark_gpu.md
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cxrjax import tables
from cxrjax.benchmarks.table import megabytes, throughput


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page; what is not measured yet is left out."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:  # a later line knows more than an earlier one of the same process
        key = (row["kind"], row["name"])
        compiled = row.get("compile_seconds") or found.get(key, {}).get("compile_seconds")
        found[key] = {**found.get(key, {}), **row, "compile_seconds": compiled}
    parts = ["# On a GPU\n"]
    card = found.get(("device", ""), {})
    if "flops" in card:
        versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
        parts.append(
            f"{card['device']}; Python {card['python']}, {versions}. Measured ceilings: "
            f"{card['flops']['bfloat16'] / 1e12:,.0f} TFLOP/s (bfloat16 product), "
            f"{card['bandwidth'] / 1e12:.2f} TB/s (read and written)."
        )
    for heading, titles, table in (
        ("Networks", _TITLES, [_row(name, found) for kind, name in found if kind == "ours"]),
        ("Also", ["what", "figures"], _others(found)),
    ):
        if any(table):
            lines = tables.table(titles, [row for row in table if row], range(1, len(titles)))
            parts += [f"## {heading}\n", "\n".join(lines)]
    parts.append(_LEGEND)
    parts += [f"FAILED: {kind} {name} (status {row['status']}; gpu.log says why)"
              for (kind, name), row in found.items() if row["what"] == "failed"]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


_TITLES = ["network", "films", "training films/s", "/ compiled", "/ eager", "inference films/s",
           "/ compiled", "/ eager", "memory MB", "compiled", "eager", "compile s", "compiled"]
_LEGEND = (
    "Median (range) over turns. 'compiled' is PyTorch by torch.compile, channels_last and autocast,"
    " 'eager' the same without torch.compile; '/ compiled' is its seconds over ours, above 1 we are"
    " faster. Every side ran alone on the card, in a process of its own, one after the other;"
    " compiling was side by side with other processes, so its seconds (training + inference) are"
    " upper bounds. Memory: the peak in use in a training step. Forward, loss, backward, clipping"
    " and AdamW on films that lie on the card. Each side has random weights of its own: that both"
    " compute the same is checked by `--mode=benchmark --against=torch`."
)


def _row(name: str, found: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """A network's row, [] where ours is not measured."""
    own, other = found["ours", name], found.get(("torch", name), {})
    if "train" not in own:
        return []
    row = [name, f"{own['batch']} x {own['size']} px, {own['precision']}"]
    for phase in ("train", "inference"):
        if phase not in own:
            row += ["-"] * 3
            continue
        seconds = own[phase]
        row.append(_speed(own["batch"], seconds))
        for side in ("compiled", "eager"):
            theirs = other.get(side, {}).get(phase)
            row.append(f"{theirs['median'] / seconds['median']:.2f}" if theirs else "-")
    # No share of the ceiling: XLA counts no FLOPs of what cuDNN computes.
    row.append(megabytes(own["memory"].get("measured")))
    row += [megabytes(other.get(side, {}).get("memory")) for side in ("compiled", "eager")]
    return row + [_compiling(own), _compiling(other)]


def _speed(batch: int, seconds: Mapping[str, float]) -> str:
    films = [throughput(batch / seconds[k]) for k in ("median", "max", "min")]
    return f"{films[0]} ({films[1]}-{films[2]})"


def _compiling(side: Mapping[str, Any]) -> str:
    seconds = side.get("compile_seconds")
    return " + ".join(f"{s:.0f}" for s in seconds.values()) if seconds else "-"


def _others(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[list[str]]:
    """Rows of what is no network's: [what, figures in words]."""
    rows = []
    for (kind, name), row in found.items():
        if kind == "mutual" and "ratio" in row:
            r = row["ratio"]
            rows.append([f"mutual step of two {name}, in single steps",
                         f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"])
        if kind == "scan" and "train" in row:
            rows.append([f"{name}, {row['steps']} steps in one compiled loop",
                         f"{_speed(row['batch'], row['train'])} films/s"])
        if kind == "layers" and "seconds" in row:
            rows += [[f"forward and backward, {way}",
                      f"{s['median'] * 1e3:.2f} ms; gradient differs by "
                      f"{row['difference'][way]:.0e}"] for way, s in row["seconds"].items()]
            rows += [[way, f"refused: {why}"] for way, why in row["difference"].items()
                     if isinstance(why, str)]
        if kind == "training" and "auroc" in row:
            rows.append([f"training of {name}: macro AUROC on the test films",
                         "{:.4f} ({:.4f} to {:.4f}); ".format(*row["auroc"])
                         + f"{row['seconds']:.0f} s with the report, beside other processes"])
    return rows


def main() -> None:
    """The command in this file's first words."""
    lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
    print(markdown([json.loads(line) for line in lines]), end="")


if __name__ == "__main__":
    main()
