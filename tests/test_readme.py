"""What the README and docs/extending.md say is tried here, so that none of it becomes untrue."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

from cxrjax import cli
from cxrjax.names import load_config_file
from cxrjax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs/extending.md").read_text()
PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md"))


def own_files(text=EXTENDING):
    """{path: code} of the complete examples, which name their file in the first line."""
    found = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
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
           "sys.exit(cli.main(sys.argv))"
    return subprocess.run([sys.executable, "-c", code, *flags], cwd=lab, capture_output=True,
                          text=True)


def test_a_network_loss_and_data_set_of_ones_own(lab):
    done = run(lab, "--mode=train", "--config=my_lab/experiment.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    done = run(lab, "--mode=evaluate", "--workdir=run")
    assert done.returncode == 2 and "--trust=my_lab " in done.stderr
    done = run(lab, "--mode=evaluate", "--workdir=run", "--trust=my_lab")
    assert done.returncode == 0, done.stderr
    report = json.loads((lab / "run/evaluation/test/report.json").read_text())
    assert report["networks"]["create"]["macro"]["macro AUROC"] > 0.9
    assert report["films"] == 30


def test_the_scheme_is_the_one_that_is_tested():
    tested = (ROOT / "tests/own_scheme.py").read_text()
    assert own_files()["my_lab/mixup.py"] == f"# my_lab/mixup.py\n{tested}"


def test_the_readme_shows_one_of_the_files_that_are_tested(lab, monkeypatch):
    shown = own_files(TEXT)
    assert shown and shown.items() <= own_files().items()
    (argument,) = re.findall(r"--config=configs/phantom\.py:(my_lab\S+)", TEXT)
    monkeypatch.syspath_prepend(lab)
    config = load_config_file(ROOT / "configs/phantom.py")(argument)
    assert config.model.name == argument and config.model.width == 16


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A folder with a run of the quickstart's config, of few films and few steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    config = load_config_file(ROOT / "configs/phantom.py")("resnet18,size=32")
    config.dataset.update(num_train=8, num_val=8, num_test=8)
    config.model.update(width=4, depths=(1, 1))
    config.batch_size, config.train_for = 8, "1 step"
    loop.train(config, folder / "runs/phantom")
    return folder


def test_the_library_example(quickstart, monkeypatch, capsys):
    """As it stands there."""
    (code,) = re.findall(r"## As a library\n+```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(quickstart)
    (quickstart / "films/new").mkdir(parents=True)
    for name in "ab":
        Image.linear_gradient("L").save(quickstart / f"films/new/{name}.png")
    capsys.readouterr()
    names = {}
    exec(code, names)
    assert names["found"]["Mass"].shape == (2,) and "14 labels" in capsys.readouterr().out


def test_the_tour_runs_and_shows_what_it_made(quickstart, monkeypatch, capsys):
    """Its code cells in order, as a notebook runs them; what is kept in it is of such a run."""
    book = json.loads((ROOT / "docs/tour.ipynb").read_text())
    monkeypatch.chdir(quickstart)
    names, pictures = {}, 0
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        *before, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(before, []), "tour.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
            pictures += isinstance(shown, Image.Image)
        else:
            exec(compile(ast.Module([last], []), "tour.ipynb", "exec"), names)
        assert cell["outputs"] or not isinstance(last, ast.Expr)
        assert not any(out["output_type"] == "error" for out in cell["outputs"])
        assert cell["execution_count"]
    told = capsys.readouterr().out
    assert "Mass" in told and "macro AUROC" in told and pictures == 3
    assert (ROOT / "docs/tour.ipynb").stat().st_size < 1_000_000
    assert not re.search(r"/(root|home|tmp|work)/", (ROOT / "docs/tour.ipynb").read_text())


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) < 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_configs_and_modes_that_exist(page):
    commands = re.findall(r"(?:launch\.py|cxrjax) (--[^&`|\n]+)", page.read_text())
    assert page.name != "README.md" or len(commands) > 5
    for command in commands:
        mode = re.search(r"--mode=(\w+)", command)
        assert mode is None or mode[1] in cli.MODES, command
        config = re.search(r"--config=(configs/\w+\.py)", command)
        if config and not re.search("/[A-Z]+\\.py", config[1]):  # a name to be put in
            assert (ROOT / config[1]).is_file(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for path in re.findall(r"\[[^]]*\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not path.startswith("http"):
            assert (page.parent / path).exists(), path
