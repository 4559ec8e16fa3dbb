"""The benchmark's figures as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrjax import tables


def speed(films: Mapping[str, float]) -> str:
    """Median and range of films/s."""
    return f"{throughput(films['median'])} ({throughput(films['min'])}-{throughput(films['max'])})"


def ratio(values: Mapping[str, float]) -> str:
    """Median and range of a ratio."""
    return f"**{values['median']:.2f}** ({values['min']:.2f}-{values['max']:.2f})"


def throughput(value: float | int) -> str:
    """Three figures before the point without decimals, else one decimal."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def megabytes(count: float | int | None) -> str:
    """MB of 10^6 bytes, or a dash."""
    return "-" if not count else f"{count / 1e6:,.0f}"


def markdown(report: Mapping[str, Any]) -> str:
    """The whole page: our figures, PyTorch's, schemes in single steps, and the host's."""
    rows = [row for row in report["rows"] if "error" not in row]
    parts = ["# Benchmark\n"]
    parts.append("Command: `" + report["command"] + "`  \n" + "Date: " + report["date"] + "  \n"
                 + "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()))
    if report["load"] > 0.5 * report["cores"]:
        parts.append(f"**Other programs were running (load {report['load']:.1f} on "
                     f"{report['cores']} cores): speeds and ratios of this run do not hold.**")
    if rows:
        first = rows[0]
        parts[1] += (f"  \nDevice: {first['device']} (x {first['devices']}); "
                      f"{first['repeats']} turns each, median (range)")
        parts.append(_table(
            ["network", "films", "precision", "training films/s", "inference films/s",
             "compile s", "GFLOPs a film", "share of peak", "memory MB"],
            [_own(row) for row in rows],
        ))
        parts.append(_legend(rows))
    against = [(row, what, side) for row in rows for what, side in row["against"].items()]
    if against:
        parts.append("## Against PyTorch\n")
        parts.append(_table(
            ["network", "PyTorch", "training films/s", "ratio", "inference films/s", "ratio",
             "memory MB", "logits differ by"],
            [[row["name"], what, speed(side["train"]["films_per_second"]),
              ratio(side["train"]["ratio"]), speed(side["inference"]["films_per_second"]),
              ratio(side["inference"]["ratio"]), megabytes(side["memory"]),
              f"{row['logits_difference']:.0e}"] for row, what, side in against],
        ))
        parts.append("Ratio: PyTorch's seconds / ours in the same turn; above 1 we are faster. "
                     "Same weights, films, batch and precision; forward, loss, backward, clipping "
                     "and AdamW. Logits: largest difference in float32, relative to the largest.")
        for row in rows:
            if row["torch_threads"] < report["cores"] and row["platform"] == "cpu":
                parts.append(f"{row['name']}: PyTorch ran on {row['torch_threads']} of "
                             f"{report['cores']} cores, where it was faster.")
            if row["changed"]:
                parts.append(f"{row['name']}, changed on both sides: {', '.join(row['changed'])}.")
    schemes = [row for row in rows if row["in_single_steps"]]
    if schemes:
        parts.append("## In single steps\n")
        parts.append(_table(
            ["scheme", "mean single step of", "FLOPs", "time"],
            [[row["scheme"], ", ".join(row["in_single_steps"]["of"]),
              f"{row['in_single_steps']['flops']:.3f}", ratio(row["in_single_steps"]["time"])]
             for row in schemes],
        ))
    if report["host"]:
        parts.append("## Host, one core\n")
        parts.append(_host(report["host"]))
    failed = [row for row in report["rows"] if "error" in row]
    parts += [f"FAILED: {row['name']}: {row['error']}" for row in failed]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _own(row: Mapping[str, Any]) -> list[str]:
    train, infer, memory = row["train"], row["inference"], row["memory"]
    cohort = f" ({row['scheme']}: {', '.join(row['networks'])})" if row["networks"] else ""
    return [
        row["name"] + cohort, f"{row['batch']} x {row['image_size']}x{row['image_size']}",
        row["precision"], speed(train["films_per_second"]), speed(infer["films_per_second"]),
        f"{train['compile_seconds']:.1f} + {infer['compile_seconds']:.1f}",
        f"{train['flops'] / row['batch'] / 1e9:.2f} / {infer['flops'] / row['batch'] / 1e9:.2f}",
        f"{train['share_of_peak']:.0%} / {infer['share_of_peak']:.0%}",
        f"{megabytes(memory['planned'])} / {megabytes(memory.get('measured'))}",
    ]


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    how = {
        "device": "the device's peak in use",
        "resident": "how far the process's resident memory rose in the first step, and the "
                    "arrays it began with",
        None: "not known here",
    }[rows[0]["memory"].get("how")]
    peak = ", ".join(sorted({f"{r['precision']} {r['peak_flops'] / 1e9:,.0f}" for r in rows}))
    return (
        "Compile, GFLOPs and share: training step, then inference. FLOPs by the compiler's cost "
        "analysis, convolutions on the CPU as the plain sum that they equal (ways that need fewer "
        "products raise the share); peak: GFLOP/s of a large matrix product in the same process "
        f"({peak}). Memory of the training step: the compiler's plan / {how}."
    )


def _host(host: Mapping[str, Any]) -> str:
    rows = [[f"remove_bright_artifacts, {size}x{size}", throughput(rate)]
            for size, rate in host["remove_bright_artifacts"].items()]
    if host["reading"]:
        rows.append(["prepared films read", throughput(host["reading"])])
    note = f"\nFilms were not read: {host['not_read']}" if "not_read" in host else ""
    return _table(["work", "films/s"], rows) + note


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; figures stand at the right of all columns but the first."""
    return "\n".join(tables.table(titles, rows, right=range(1, len(titles)))) + "\n"
