"""The table of modes and flags, and the sentences that answer a wrong command line."""

import importlib
import inspect
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from cxrjax import cli, names
from cxrjax.cli import fields, reading, table
from cxrjax.data.sets.base import SPLITS
from cxrjax.errors import UserError
from cxrjax.explanation import heatmaps
from cxrjax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
EVERY = list(dict.fromkeys(flag.name for flag in table.FLAGS))
# Flags that let each mode's needs be met.
NEEDED = {
    mode: [f"--{name}={'phantom' if name == 'config' else 'x'}"
           for name, flag in table.flags_of(mode).items() if mode in flag.needed.split()]
    for mode in cli.MODES
}


def said(capsys, *flags, status=2):
    """The one line that the command line answers with; before what a config is refused for it may
    say that it loads."""
    assert cli.main(["launch.py", *flags]) == status
    shown = capsys.readouterr()
    assert re.fullmatch(r"(\w+: loading the libraries\n)?", shown.out)
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    return shown.err[len("error: "):-1]


@pytest.mark.parametrize("mode", cli.MODES)
def test_the_first_word_comes_before_anything_heavy(mode):
    """In a process of its own: what is imported by then is what a user waits for."""
    code = f"""
import sys
from cxrjax.cli import reading
def told(given):
    print(sorted({{"jax", "numpy", "scipy", "ml_collections"}} & set(sys.modules)), flush=True)
    raise SystemExit
reading.parse({mode!r}, ["cxrjax", *{NEEDED[mode]!r}], told)
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout == "[]\n", shown.stderr


@pytest.mark.parametrize("mode", cli.MODES)
def test_the_table_says_what_the_functions_take(mode):
    module, _, name = cli.MODES[mode].function.partition(":")
    taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    rows = table.flags_of(mode)
    rows.pop("trust", None)  # for all that is read while the mode works: see cli._do
    assert set(taken) == set(rows)
    for flag in rows.values():
        default = taken[flag.name].default
        assert default in (inspect.Parameter.empty, flag.default), flag.name


def test_a_flag_has_one_row_in_a_mode_and_rows_name_modes():
    pairs = [(flag.name, mode) for flag in table.FLAGS for mode in flag.modes.split()]
    assert len(pairs) == len(set(pairs))
    assert {mode for _, mode in pairs} == set(cli.MODES)
    for flag in table.FLAGS:
        assert set(flag.needed.split()) <= set(flag.modes.split()), flag.name
        for other in filter(None, (flag.not_with, flag.only_with)):
            assert all(other in table.flags_of(mode) for mode in flag.modes.split()), flag.name
    for mode, name in table.INSTEAD:
        assert name in EVERY and name not in table.flags_of(mode), (mode, name)


def test_words_to_choose_from_are_those_that_the_package_knows():
    rows = table.flags_of("explain")
    assert rows["method"].kind.meta.split("|") == list(heatmaps.TITLES)
    assert rows["split"].kind.meta.split("|") == list(SPLITS)
    assert rows["checkpoint"].kind.meta.split("|") == list(checkpoint.WHICH)


def test_the_help_lists_modes_and_configs(capsys):
    for flags in ((), ("--help",), ("-h",), ("--helpfull",)):
        assert cli.main(["launch.py", *flags]) == 0
        shown = capsys.readouterr().out
        for mode, row in cli.MODES.items():
            assert re.search(rf"^  {mode} +{re.escape(row.words)}$", shown, re.MULTILINE)
            assert f"  python launch.py --mode={mode} {row.example}\n" in shown
        assert "phantom_pointing" in shown


@pytest.mark.parametrize("mode", cli.MODES)
def test_the_help_of_a_mode_lists_its_flags_only(mode, capsys):
    assert cli.main(["/venv/bin/cxrjax", f"--mode={mode}", "--help"]) == 0
    shown = capsys.readouterr().out
    rows = table.flags_of(mode)
    assert sorted(re.findall(r"^  --(\w+)", shown, re.MULTILINE)) == sorted(rows)
    assert f"example: cxrjax --mode={mode} " in shown
    for flag in rows.values():
        assert f"\n{flag.group}:\n" in shown
        if flag.default not in (None, False):
            assert f"(default: {flag.default})" in " ".join(shown.split())
    assert shown.count("(needed)") == len(NEEDED[mode])
    assert max(map(len, re.findall(r"^  .*", shown, re.MULTILINE))) <= 100


def test_the_example_of_each_mode_is_a_command_that_it_takes():
    for mode, row in cli.MODES.items():
        words = [word.strip("'") for word in row.example.split()]
        words = [word for word in words if not word.startswith("--config")]
        words += NEEDED[mode] if "--config=phantom" in NEEDED[mode] else []
        assert reading.parse(mode, ["cxrjax", *words])


@pytest.mark.parametrize("mode", cli.MODES)
def test_a_flag_of_other_modes_is_refused_and_they_are_named(mode, capsys):
    for name in EVERY:
        if name in table.flags_of(mode):
            continue
        line = said(capsys, f"--mode={mode}", f"--{name}=1", *NEEDED[mode])
        assert line.startswith(f"--mode={mode} takes no --{name}")
        takers = [other for other in cli.MODES if name in table.flags_of(other)]
        assert line.endswith(f"(--{name} is for {', '.join(takers)})")


@pytest.mark.parametrize("flags, line", [
    (["--mode=trian"], "unknown mode 'trian'; did you mean 'train'? (known: benchmark,"),
    (["--mode=train"], "--mode=train needs --config=CONFIG[:ARGUMENT] (experiment: a name or"),
    (["--mode=train", "--config=phantom"], "--mode=train needs --workdir=PATH (folder of the run"),
    (["--mode=evaluate"],
     "--mode=evaluate needs --workdir=PATH (folder of a training, or hub:USER/NAME)"),
    (["--mode=predict", "--workdir=a"], "--mode=predict needs --images=FILMS (film, folder or"),
    (["--mode=recalibrate", "--workdir=a"], "--mode=recalibrate needs --output=PATH"),
    (["--workdir=runs/a"], "give --mode=prepare|train|"),
    (["train"], "unexpected argument 'train': flags are written --name=value, as in --mode=train"),
    (["--mode=train", "runs/a"], "unexpected argument 'runs/a': flags are written --name=value"),
    (["--mdoe=train"], "unknown flag --mdoe; did you mean 'mode'?"),
    (["--mode=evaluate", "--wrokdir=a"], "unknown flag --wrokdir; did you mean 'workdir'? (known:"),
    (["--mode=evaluate", "--workdir"], "Missing value for flag --workdir"),
    (["--mode=evaluate", "--config=o.py", "--workdir=a"],
     "--mode=evaluate takes no --config: the run's own config is in its checkpoint; films that"),
    (["--mode=evaluate", "--config.batch_size=4", "--workdir=a"],
     "--mode=evaluate takes no --config: "),
    (["--mode=evaluate", "--images=x", "--workdir=a"],
     "--mode=evaluate takes no --images: a run is judged on a split of its data set; to read films "
     "on disk: --mode=predict (--images is for recalibrate, predict, explain, view)"),
    (["--mode=train", "--notta"],
     "--mode=train takes no --tta (--tta is for calibrate, evaluate, predict, export)"),
    (["--mode=compare", "--workdir=a"],
     "--mode=compare takes no --workdir: give --workdirs=runs/a,runs/b (--workdir is for train,"),
    (["--mode=prepare", "--workdir=a"],
     "--mode=prepare takes no --workdir: the films go to --config.dataset.data_dir (--workdir"),
    (["--mode=benchmark", "--workdir=a"],
     "--mode=benchmark takes no --workdir: give --config or --models: untrained networks"),
    (["--mode=evaluate", "--workdir=a", "--split=tset"],
     "--split=tset: not known; did you mean 'test'? (known: all, test, train, val)"),
    (["--mode=explain", "--workdir=a", "--threshold=0"],
     "--threshold=0: must be a number above 0 and at most 1"),
    (["--mode=explain", "--workdir=a", "--threshold=nan"], "--threshold=nan: must be a number"),
    (["--mode=explain", "--workdir=a", "--finer=0"], "--finer=0: must be a whole number, 1 or mo"),
    (["--mode=explain", "--workdir=a", "--finer=1.5"], "--finer=1.5: must be a whole number"),
    (["--mode=evaluate", "--workdir=a", "--tta=maybe"],
     "--tta=maybe: must be true or false, or left out"),
    (["--mode=evaluate", "--workdir=a", "--masks_from=b"], "--masks_from is for --probe"),
    (["--mode=explain", "--workdir=a", "--images=b", "--split=val"],
     "--split says nothing beside --images: give one"),
    (["--mode=explain", "--workdir=a", "--images=b", "--config=phantom"],
     "--config says nothing beside --images: give one"),
    (["--mode=benchmark", "--config=phantom", "--models=resnet18"],
     "--models says nothing beside --config: give one"),
    (["--mode=train", "--config.batch_size=4", "--workdir=a"], "--mode=train needs --config="),
    (["--mode=benchmark", "--config.batch_size=4"],
     "--config.batch_size is a field of a config: give --config too"),
])
def test_each_mistake_is_one_line(flags, line, capsys):
    assert said(capsys, *flags).startswith(line)


@pytest.mark.parametrize("given, line", [
    (["phantom", "--config.dataset.train=64"],
     "config.dataset has no field 'train'; did you mean 'num_train'? (known: artifacts, "),
    (["phantom", "--config.batch_sise=4"],
     "config has no field 'batch_sise'; did you mean 'batch_size'? (known: augment, "),
    (["phantom", "--config.learning_rate=4"],
     "config has no field 'learning_rate'; did you mean config.optimizer.learning_rate? (known: "),
    (["phantom", "--config.optimiser.learning_rate=4"],
     "config has no field 'optimiser'; did you mean 'optimizer'?"),
    (["phantom", "--config.batch_size.of=4"],
     "config.batch_size is 32 and has no field 'of': --config.batch_size.of"),
    (["phantom", "--config.batch_size=abc"], "config.batch_size=abc: must be a whole number; it is "
     "32"),
    (["phantom", "--config.batch_size=1.5"], "config.batch_size=1.5: must be a whole number"),
    (["phantom", "--config.optimizer.learning_rate=fast"],
     "config.optimizer.learning_rate=fast: must be a number; it is 0.002"),
    (["phantom", "--config.cache_in_memory=4"],
     "config.cache_in_memory=4: must be true or false; it is True"),
    (["phantom", "--config.cache_in_memory", "yes"], "unexpected argument 'yes'"),
    (["fantom"], "no config 'fantom' came with cxrjax; did you mean 'phantom'? (known: chestxray"),
    (["other/phantom.py"], "no config file other/phantom.py; did you mean --config=phantom?"),
    (["other/mine.py:resnet18"], "no config file other/mine.py"),
    (["phantom:resnet18,sise=3"], "unknown config argument 'sise'; did you mean 'size'?"),
    (["phantom:resnet18,size=x"], "config argument size=x: not a int"),
])
def test_each_mistake_in_a_config_is_one_line(given, line, capsys):
    config, *words = given
    shown = said(capsys, "--mode=train", f"--config={config}", *words, "--workdir=a")
    assert shown.startswith(line)


@pytest.mark.parametrize("text, line", [
    ("def get_config():\n    return None\n", "get_config gives a NoneType, and no ConfigDict"),
    ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_"),
    ("def get_config():\n    x = 1\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
    ("def get_config(:\n", "line 1: SyntaxError"),
    ("x = 1\n", "AttributeError"),
])
def test_an_error_in_a_config_file_names_the_line(tmp_path, text, line, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)
    shown = said(capsys, "--mode=train", f"--config={path}", "--workdir=a")
    assert str(path) in shown and line in shown


def test_a_config_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("phantom", "phantom.py", str(ROOT / "configs/phantom.py")):
        config = fields.open_config(f"{given}:densenet121,size=96", [])
        assert (config.model.name, config.dataset.image_size) == ("densenet121", 96)
    fork = tmp_path / "mine/fork.py"
    fork.parent.mkdir()
    shutil.copyfile(ROOT / "configs/phantom_pointing.py", fork)
    assert fields.open_config("mine/fork.py").dataset.num_train == 8000
    shutil.copyfile(fork, "phantom.py")  # what is at hand goes first
    assert fields.open_config("phantom.py").dataset.num_train == 8000
    assert fields.open_config("phantom").train_for == "5 epochs"


@pytest.mark.parametrize("name", names.config_names())
def test_configs_import_cxrjax_alone(name):
    text = names.config_file(name).read_text()
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert imported <= {"cxrjax", "ml_collections"}


def test_fields_are_set_in_any_order_and_form():
    arguments = reading.parse("train", [
        "cxrjax", "--config.batch_size=8", "--config.dataset.num_train", "64",
        "--noconfig.cache_in_memory", "--config=phantom:resnet18", "--config.model.dropout", "0.5",
        "--config.schedule.boundaries=('1 epoch', '2 epochs')", "--workdir", "runs/a",
        "--config.loss.pos_weight=balanced", "--config.optimizer.nesterov=false",
    ])
    config = arguments["config"]
    assert set(arguments) == {*table.flags_of("train"), "verbosity"}
    assert arguments["workdir"] == "runs/a"
    assert (config.batch_size, config.dataset.num_train, config.model.dropout) == (8, 64, 0.5)
    assert config.schedule.boundaries == ("1 epoch", "2 epochs")
    assert (config.cache_in_memory, config.optimizer.nesterov) == (False, False)
    assert config.loss.pos_weight == "balanced"
    with pytest.raises(AttributeError):
        config.new_field = 1


def test_a_field_that_others_refer_to_reaches_them():
    config = fields.open_config(
        "chestxray14_mutual:resnet18,resnet18,data=phantom,size=64",
        ["--config.optimizer.learning_rate=3e-5", "--config.networks.resnet18_2.seed=7"],
    )
    rates = [network.optimizer.learning_rate for network in config.networks.values()]
    assert rates == [3e-5, 3e-5]
    assert (config.networks.resnet18.seed, config.networks.resnet18_2.seed) == (0, 7)


def test_homes_are_found_and_defaults_are_the_tables(monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    arguments = reading.parse("predict", ["cxrjax", "--workdir=~/a", "--images=~/x*", "--tta"])
    assert arguments["workdir"] == "/home/reader/a"
    assert arguments["layout"] == "wide" and arguments["output"] is None
    assert (arguments["tta"], arguments["show_cleaned"]) == (True, False)
    assert reading.parse("view", ["cxrjax", "--workdir=a", "--verbosity=-1"])["verbosity"] == -1


def test_library_code_may_catch_it():
    with pytest.raises(UserError, match="no config 'x'"):
        names.open_config("x")


@pytest.mark.parametrize("name, called", [
    ("/home/me/cxrjax/launch.py", "python launch.py"), ("/venv/bin/cxrjax", "cxrjax"),
    ("/venv/lib/cxrjax/__main__.py", "python -m cxrjax"), ("ipykernel_launcher.py", "cxrjax"),
])
def test_commands_in_messages_are_as_the_user_gave_them(name, called):
    assert names.program(name) == called


def test_the_help_of_a_config_is_its_own_words(capsys):
    assert cli.main(["cxrjax", "--mode=train", "--config=phantom:resnet50", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--config=phantom:\n  The quickstart: 14 findings on synthetic films" in shown
    assert "`argument`: model, then size=PIXELS, loss=bce|asl|focal and, of resunet, enc" in shown
    line = said(capsys, "--mode=train", "--config=fantom", "--help")
    assert line.startswith("no config 'fantom' came with cxrjax; did you mean 'phantom'?")
