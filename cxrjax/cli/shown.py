"""What `--help` shows, with a mode and without."""

from __future__ import annotations

import textwrap

from cxrjax import names
from cxrjax.cli.table import MODES, flags_of


def overview(call: str) -> str:
    """What stands on the screen for `--help` without a mode."""
    width = max(map(len, MODES))
    lines = ["cxrjax: train, judge and explain classifiers of chest radiographs", "",
             f"usage: {call} --mode=MODE --flag=value ...", "", "modes:"]
    lines += [f"  {name:{width}}  {mode.words}" for name, mode in MODES.items()]
    lines += ["", "examples:"]
    lines += [f"  {call} --mode={name} {mode.example}" for name, mode in MODES.items()]
    lines += ["", *_configs(), f"the flags of a mode: {call} --mode=MODE --help"]
    return "\n".join(lines)


def _configs() -> list[str]:
    known = f"configs that came with it: {', '.join(names.config_names())}"
    return textwrap.wrap(known, 100, subsequent_indent="  ")


def of_mode(mode: str, call: str) -> str:
    """What stands on the screen for `--mode=MODE --help`."""
    rows = list(flags_of(mode).values())
    lines = [f"{call} --mode={mode}: {MODES[mode].words}", "",
             f"example: {call} --mode={mode} {MODES[mode].example}"]
    shown = {
        f"--{f.name}" + (f"={f.kind.meta}" if f.kind.meta else ""): f for f in rows
    }
    width = min(28, max(map(len, shown)))
    for group in dict.fromkeys(flag.group for flag in rows):
        lines += ["", f"{group}:"]
        for text, flag in shown.items():
            if flag.group != group:
                continue
            tail = " (needed)" if mode in flag.needed.split() else ""
            if flag.default not in (None, False):
                tail = f" (default: {flag.default})"
            body = textwrap.wrap(flag.words + tail, 100 - width - 4)
            head = f"  {text:{width}}  "
            if len(text) > width:
                lines.append(head.rstrip())
                head = " " * len(f"  {'':{width}}  ")
            lines.append(head + body[0])
            lines += [" " * (width + 4) + line for line in body[1:]]
    if any(flag.name == "config" for flag in rows):
        lines += ["", *_configs(),
                  f"what one takes after the colon: {call} --mode={mode} --config=NAME --help"]
    return "\n".join(lines)


def of_config(text: str) -> str:
    """What stands on the screen for a config beside `--help`: its own words, for its argument."""
    name = text.partition(":")[0]
    return f"--config={name}:\n" + textwrap.indent(names.about_config(name), "  ")
