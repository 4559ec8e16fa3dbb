"""What `--help` shows, with a mode and without."""

from __future__ import annotations

import os
import textwrap

from cxrjax import names
from cxrjax.cli.table import MODES, flags_of


def program(name: str) -> str:
    """How the program was called: 'python launch.py', 'python -m cxrjax' or 'cxrjax'."""
    name = os.path.basename(name)
    return {"launch.py": "python launch.py", "__main__.py": "python -m cxrjax"}.get(name, "cxrjax")


def overview(call: str) -> str:
    """What stands on the screen for `--help` without a mode."""
    width = max(map(len, MODES))
    lines = ["cxrjax: train, judge and explain classifiers of chest radiographs", "",
             f"usage: {call} --mode=MODE --flag=value ...", "", "modes:"]
    lines += [f"  {name:{width}}  {mode.words}" for name, mode in MODES.items()]
    lines += ["", "examples:"]
    lines += [f"  {call} --mode={name} {mode.example}" for name, mode in MODES.items()]
    lines += ["", f"configs that came with it: {', '.join(names.config_names())}",
              f"the flags of a mode: {call} --mode=MODE --help"]
    return "\n".join(lines)


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
        lines += ["", f"configs that came with it: {', '.join(names.config_names())}"]
    return "\n".join(lines)
