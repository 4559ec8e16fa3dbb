"""The command line: help, typos, and the layering that it sits on."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def launch(*flags, cwd=ROOT, **environment):
    environment = {**os.environ, "CXRJAX_TRACEBACK": "", **environment}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *flags], cwd=cwd, env=environment,
        capture_output=True, text=True,
    )


def test_without_flags_a_help_with_examples():
    shown = launch()
    assert shown.returncode == 0
    assert shown.stdout.count("python launch.py --mode=") == 8
    for mode in ("prepare", "train", "evaluate", "compare", "predict", "explain", "view"):
        assert mode in shown.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--mode=trian"], "did you mean 'train'"),
        (["--mdoe=train"], "mode"),
        (["--mode=train"], "--config"),
        (["--mode=train", "--config=configs/phantom.py", "--config.batch_sise=4"], "batch_size"),
        (["--mode=train", "--config=configs/phantom.py", "--config.batch_size=four"], "four"),
        (["--mode=train", "--config=configs/fantom.py"], "configs/fantom.py"),
        (["--mode=train", "--config=configs/phantom.py:resnet18,sise=3"], "did you mean 'size'"),
        (["--mode=evaluate"], "--workdir"),
        (["--mode=evaluate", "--workdir=nowhere"], "nowhere"),
        (["train"], "--name=value"),
        (["--workdir=runs/a"], "--mode="),
    ],
)
def test_typos_end_in_one_line(flags, words):
    shown = launch(*flags)
    assert shown.returncode == 2, shown.stderr
    message = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1 and words in message[0], shown.stderr
    assert "Traceback" not in shown.stderr


def test_compiled_programs_are_kept_though_the_config_file_imports_jax_first(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("""
import jax
from cxrjax.errors import UserError
def get_config(argument=None):
    raise UserError(f"kept in {jax.config.jax_compilation_cache_dir}")
""")
    shown = launch("--mode=train", f"--config={config}", "--workdir=none", HOME=str(tmp_path))
    assert f"kept in {tmp_path}/.cache/cxrjax/compiled" in shown.stderr


# --- imports go down only (see the layout in README.md)

LEVELS = [
    {"errors", "names"},
    {"losses", "metrics", "bootstrap", "groups", "cam", "heads", "localization", "augment",
     "preprocess", "dicom", "optim", "checkpoint", "clock", "pictures",
     "machine", "benchmark_table"},
    {"models", "weights", "datasets", "torch_reference"},
    {"warm_start"},
    {"steps"},
    {"schemes", "input_pipeline", "writers", "report", "trained", "segmentation", "evaluated",
     "torch_comparison"},
    {"probe"},
    {"train", "evaluate", "heatmaps"},
    {"predict", "marked", "compare", "benchmark"},
    {"gallery", "recalibrate"},
    {"explain", "viewer_model", "viewer_widgets"},
    {"viewer_window"},
    {"viewer"},
]


def imported(path):
    """(module, line) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(name):
    for number, names in enumerate(LEVELS):
        if name in names:
            return number
    return len(LEVELS)


def sources():
    for path in sorted((ROOT / "cxrjax").rglob("*.py")):
        yield path, path.relative_to(ROOT / "cxrjax").parts[0].removesuffix(".py")


def test_imports_go_down_only():
    wrong = []
    for path, own in sources():
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "configs":
                wrong.append(f"{path.name} imports {name}")
            if parts[0] == "cxrjax" and len(parts) > 1 and parts[1] != own:
                if (ROOT / "cxrjax" / parts[1]).exists() or (
                    ROOT / "cxrjax" / f"{parts[1]}.py"
                ).exists():
                    if level(parts[1]) > level(own):
                        wrong.append(f"{path.name} imports {name}")
    assert not wrong, wrong


@pytest.mark.parametrize(
    "library, allowed",
    [
        ("tensorflow_datasets", {"datasets", "input_pipeline"}),
        ("grain", {"input_pipeline"}),
        ("orbax", {"checkpoint"}),
        ("tensorboardX", {"writers"}),
        ("tensorflow", set()),
        ("pickle", set()),
    ],
)
def test_one_place_knows_each_library(library, allowed):
    users = {own for path, own in sources() if library in {n.split(".")[0] for n in imported(path)}}
    assert users <= allowed
