"""The command line as a program: what is loaded, what is kept, Ctrl-C. The flags: `test_flags`."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def launch(*flags, cwd=ROOT, **environment):
    environment = {**os.environ, "CXRJAX_TRACEBACK": "", **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *flags], cwd=cwd, env=environment,
        capture_output=True, text=True,
    )


def test_answers_to_flags_load_nothing_heavy():
    code = """
import sys
from cxrjax import cli
assert cli.main(["cxrjax"]) == 0
assert cli.main(["cxrjax", "--help"]) == 0
for mode in cli.MODES:
    assert cli.main(["cxrjax", f"--mode={mode}", "--help"]) == 0
    assert cli.main(["cxrjax", f"--mode={mode}", "--workdri=a"]) == 2
assert cli.main(["cxrjax", "--mode=evaluate", "--config=phantom", "--workdir=a"]) == 2
assert cli.main(["cxrjax", "--mode=train", "--config=fantom", "--workdir=a"]) == 2
assert cli.main(["cxrjax", "--mode=predict", "--workdir=a"]) == 2
heavy = {"jax", "numpy", "scipy", "matplotlib", "sklearn", "orbax", "grain", "tensorflow_datasets"}
print(heavy & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == "set()"


def test_compiled_programs_are_kept_though_the_config_file_imports_jax_first(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("""
import jax
from cxrjax.errors import UserError
def get_config(argument=None):
    raise UserError(f"kept in {jax.config.jax_compilation_cache_dir}")
""")
    shown = launch("--mode=train", f"--config={config}", "--workdir=none", HOME=str(tmp_path),
                   JAX_COMPILATION_CACHE_DIR=None)
    assert f"kept in {tmp_path}/.cache/cxrjax/compiled" in shown.stderr


@pytest.mark.parametrize("interrupt", [
    "os.kill(os.getpid(), signal.SIGINT)",
    # Where Python prints an exception as ignored, and goes on.
    "gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT)); gc.collect(); "
    "gc.callbacks.pop()",
])
def test_ctrl_c_is_one_line_and_status_130(tmp_path, interrupt):
    (tmp_path / "config.py").write_text(f"""
import gc, os, signal, time
def get_config():
    gc.disable()
    {interrupt}
    time.sleep(20)
""")
    shown = launch("--mode=train", "--config=config.py", "--workdir=none", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (130, "stopped by Ctrl-C\n")


def test_an_error_of_ours_shows_its_traceback_where_it_is_asked_for():
    shown = launch("--mode=trian", CXRJAX_TRACEBACK="1")
    assert "Traceback" in shown.stderr and "did you mean 'train'" in shown.stderr


def test_a_run_that_is_not_there_is_said_at_once():
    """Before anything that takes long to import: the limit is on what was imported."""
    code = """
import sys
from cxrjax import cli
print(cli.main(["cxrjax", "--mode=evaluate", "--workdir=nowhere"]))
print({"matplotlib", "sklearn", "orbax", "grain", "scipy.stats", "tensorboardX"} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.stderr == "error: no folder nowhere: it must be the workdir of a training\n"
    assert shown.stdout.split("\n")[:3] == ["evaluate: loading the libraries", "2", "set()"]
