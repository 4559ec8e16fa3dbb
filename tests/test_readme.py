"""What the README says is tried here, so that none of it becomes untrue."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from cxrjax import cli

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def own_files():
    """{path: code} of the complete examples, which name their file in the first line."""
    found = {}
    for code in blocks("python"):
        name = re.match(r"# (my_lab/\w+\.py)\n", code)
        if name:
            found[name[1]] = code
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the README's my_lab package."""
    folder = tmp_path_factory.mktemp("lab")
    for path, code in own_files().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(code)
    return folder


def run(lab, *flags):
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(lab)!r}]; from cxrjax import cli; " \
           "from absl import app; app.run(cli.main, flags_parser=cli.parse)"
    return subprocess.run([sys.executable, "-c", code, *flags], cwd=lab, capture_output=True,
                          text=True)


def test_a_network_loss_and_data_set_of_ones_own(lab):
    done = run(lab, "--mode=train", "--config=my_lab/experiment.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    done = run(lab, "--mode=evaluate", "--workdir=run")
    assert done.returncode == 0, done.stderr
    report = json.loads((lab / "run/evaluation/test/report.json").read_text())
    assert report["networks"]["create"]["macro"]["macro AUROC"] > 0.9
    assert report["films"] == 30


def test_the_scheme_is_the_one_that_is_tested():
    tested = (ROOT / "tests/own_scheme.py").read_text()
    assert own_files()["my_lab/mixup.py"] == f"# my_lab/mixup.py\n{tested}"


def test_commands_name_configs_and_modes_that_exist():
    commands = re.findall(r"launch\.py (--[^&`\n]+)", TEXT)
    assert len(commands) > 5
    for command in commands:
        mode = re.search(r"--mode=(\w+)", command)
        assert mode is None or mode[1] in cli.MODES, command
        config = re.search(r"--config=([\w/]+\.py)", command)
        if config and not config[1].startswith("my_lab"):
            assert (ROOT / config[1]).is_file(), command


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
