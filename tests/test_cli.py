"""The command line: help, typos, and the layering that it sits on."""

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
