"""The table of the command line: the modes, and which flags each of them takes.

To add a flag: one row of `FLAGS`, and a keyword argument of the same name in the function of every
mode that takes it (`tests/cli` compares the two). A flag that means different things in different
modes has a row for each meaning. To add a mode: one row of `MODES`, its name in the rows of the
flags that it shares with others, and a row for each of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from cxrjax.names import suggest


class Mode(NamedTuple):
    """A row of `MODES`.

    Attributes:
      function: that does it, 'module:name'; its keyword arguments are the mode's flags, and what it
        returns is the exit status (None is 0).
      words: what it does, in one line.
      example: flags of a typical call.
    """

    function: str
    words: str
    example: str


MODES = {
    "prepare": Mode("cxrjax.data.sets:main", "read a data set's raw folder once, store its films",
                    "--config=chestxray14 --config.dataset.raw_dir=FILMS"),
    "train": Mode("cxrjax.training.loop:main", "train an experiment, or go on with it",
                  "--config=phantom --workdir=runs/phantom"),
    "recalibrate": Mode("cxrjax.evaluation.recalibrate:main",
                        "compute a run's batch statistics anew, on films as they are",
                        "--workdir=runs/phantom --output=runs/phantom_r"),
    "calibrate": Mode("cxrjax.evaluation.calibrate:main",
                      "fit a run's probabilities to its validation films, and keep the map",
                      "--workdir=runs/phantom"),
    "evaluate": Mode("cxrjax.evaluation.evaluate:main", "judge a run: report, curves, predictions",
                     "--workdir=runs/phantom"),
    "compare": Mode("cxrjax.evaluation.compare:main",
                    "put evaluated runs side by side; several seeds of one config are one row",
                    "--workdirs=runs/resnet50,runs/resunet"),
    "predict": Mode("cxrjax.serving.predict:main", "read new films with a trained network",
                    "--workdir=runs/phantom --images='new/*.png' --output=new.csv"),
    "export": Mode("cxrjax.serving.export:main", "one file that answers with jax alone",
                   "--workdir=runs/phantom --output=phantom.cxrjax"),
    "explain": Mode("cxrjax.explanation.explain:main",
                    "see where a network looks: pictures, and scores against marked boxes",
                    "--workdir=runs/phantom"),
    "view": Mode("cxrjax.serving.viewer.main:main", "look at films and heat maps in a window",
                 "--workdir=runs/phantom --images=new"),
    "serve": Mode("cxrjax.serving.serve:main", "a page in the browser: drop films, see findings",
                  "--workdir=runs/phantom"),
    "publish": Mode("cxrjax.serving.publish:main",
                    "give a run away: weights, card and what they decide with, in one folder",
                    "--workdir=runs/phantom --to=phantom_r18"),
    "benchmark": Mode("cxrjax.benchmarks.benchmark:main",
                      "measure speed and memory, beside PyTorch's if asked",
                      "--models=resnet18,densenet121 --against=torch"),
}


class Kind(flags.ArgumentParser):
    """What a flag's value may be: `read` gives it, or raises ValueError with the words."""

    def __init__(self, meta: str, read: Callable[[str], Any] = str):
        self.meta, self._read = meta, read

    def parse(self, argument: Any) -> Any:
        return self._read(argument) if isinstance(argument, str) else argument


def _number(
    type_: type, what: str, least: int | float, most: int | float = float("inf"),
    above: bool = False,
) -> Callable[[str], Any]:
    """A reader of numbers from `least` (or just above it) to `most`."""

    def read(text: str) -> int | float:
        try:
            value = type_(text)
        except ValueError:
            value = float("nan")
        if not (least < value if above else least <= value) or not value <= most:
            raise ValueError(f"must be {what}")
        return value

    return read


def _address(text: str) -> str:
    if text != "auto" and not re.fullmatch(r"(\[[\da-fA-F:.]+\]|[^\s:/]+):\d{1,5}", text):
        raise ValueError("must be HOST:PORT of the machine of process 0, or auto")
    return text


def one_of(*known: str) -> Kind:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in known:
            raise ValueError("not known" + suggest(text, known))
        return text

    return Kind("|".join(known), read)


TEXT = Kind("NAME")
PLACE = Kind("PATH", os.path.expanduser)
FILMS = Kind("FILMS")
CONFIG = Kind("CONFIG[:ARGUMENT]")
LIST = Kind("A,B,...")
ADDRESS = Kind("HOST:PORT|auto", _address)
COUNT = Kind("N", _number(int, "a whole number, 1 or more", 1))
INDEX = Kind("I", _number(int, "a whole number, 0 or more", 0))
PORT = Kind("N", _number(int, "a port, 0 (any that is free) to 65535", 0, 65535))
SHARE = Kind("SHARE", _number(float, "a number above 0 and at most 1", 0, 1, above=True))
RULE = Kind("RULE")
PART = Kind("SHARE", _number(float, "a number between 0 and 1, such as 0.02", 1e-9, 1 - 1e-9))
SWITCH = Kind("")  # --name, or --noname


class Flag(NamedTuple):
    """A row of `FLAGS`.

    Attributes:
      name: as written, and as the mode's function calls it.
      modes: that take it, in one string.
      kind: what its value may be.
      words: what it does, in one line.
      group: the heading under which `--help` shows it.
      default: where it is not given.
      needed: the modes (of `modes`) that cannot do without it.
      not_with: a flag beside which it would say nothing; `only_with`: one without which.
    """

    name: str
    modes: str
    kind: Kind
    words: str
    group: str
    default: Any = None
    needed: str = ""
    not_with: str = ""
    only_with: str = ""


RUN, DATA, WHAT, HEAT, OUT, MANY = (
    "the run", "the films", "what is computed", "the heat maps", "what is written",
    "several processes or machines (docs/several_machines.md)",
)
FLAGS = (
    Flag("config", "prepare train", CONFIG,
         "experiment: a name or a file of your own; --config.FIELD=VALUE sets a field",
         RUN, needed="prepare train"),
    Flag("config", "benchmark", CONFIG, "measure this experiment instead of the networks of "
         "--models", WHAT),
    Flag("workdir", "train", PLACE, "folder of the run, new or to go on with", RUN,
         needed="train"),
    Flag("workdir", "recalibrate calibrate evaluate explain view serve publish", PLACE,
         "folder of a training, or hub:USER/NAME", RUN,
         needed="recalibrate calibrate evaluate explain view serve publish"),
    Flag("workdir", "predict export", PLACE, "folder of a training, or hub:USER/NAME", RUN),
    Flag("model", "predict", PLACE, "file of an export, instead of a run", RUN,
         not_with="workdir"),
    Flag("workdirs", "predict export", LIST, "folders of several runs that answer as one: "
         "runs/a,runs/b or 'runs/seed*'", RUN, not_with="workdir"),
    Flag("workdirs", "compare", LIST, "folders of evaluated runs: runs/a,runs/b or 'runs/seed*'",
         RUN, needed="compare"),
    Flag("checkpoint", "recalibrate calibrate evaluate predict export explain view serve publish",
         one_of("best", "latest"), "which of the run's checkpoints to read", RUN, "best"),
    Flag("trust", "train recalibrate calibrate evaluate compare predict export explain view "
         "serve publish", LIST, "modules of your own that the configs of runs may name; they are "
         "imported", RUN),
    Flag("network", "export explain view serve", TEXT, "which of the run's networks; its merged "
         "answer if it has one", RUN),
    Flag("images", "predict", FILMS, "film, folder or quoted pattern", DATA, needed="predict"),
    Flag("images", "explain view", FILMS, "film, folder or quoted pattern", DATA),
    Flag("images", "recalibrate", FILMS, "films of your own (file, folder or quoted pattern) "
         "instead of the training split's", DATA),
    Flag("dataset", "evaluate", CONFIG, "another hospital's films: a config; --dataset.FIELD=VALUE "
         "sets a field of its data set", DATA),
    Flag("labels", "evaluate", LIST, "judge these common labels only, as in Effusion,Mass", DATA,
         only_with="dataset"),
    Flag("split", "evaluate", one_of("train", "val", "test", "all"), "which split; 'all' of "
         "--dataset", DATA, "test"),
    Flag("split", "compare", one_of("train", "val", "test"), "which split", DATA, "test"),
    Flag("split", "explain", one_of("train", "val", "test"), "which split", DATA, "test",
         not_with="images"),
    Flag("data_dir", "calibrate evaluate", PLACE,
         "where the prepared films are now, if they were moved", DATA),
    Flag("data_dir", "recalibrate explain", PLACE,
         "where the prepared films are now, if they were moved", DATA, not_with="images"),
    Flag("config", "explain", CONFIG, "another data set with the same labels, whose films are "
         "explained", DATA, not_with="images"),
    Flag("tta", "calibrate evaluate predict export", SWITCH, "answer with the mean over each film "
         "and its mirror image", WHAT, False),
    Flag("operating_point", "calibrate evaluate", RULE, "how thresholds are chosen on validation: "
         "youden, f1, sensitivity=0.95 (at least so much), specificity=0.9", WHAT),
    Flag("prevalence", "evaluate", PART, "PPV and NPV where this share of films is positive, too",
         WHAT),
    Flag("probe", "evaluate", SWITCH, "also without the lungs, and on the lungs alone", WHAT,
         False),
    Flag("strict", "prepare predict explain", SWITCH, "refuse films that are unusual for a frontal "
         "chest film", DATA, False),
    Flag("masks_from", "evaluate", PLACE, "folder of a run whose decoder finds the lungs of films "
         "without masks", WHAT, only_with="probe"),
    Flag("baseline", "compare", TEXT, "differences to this entry of the table as well", WHAT),
    Flag("models", "benchmark", LIST, "networks, as in resnet18,densenet121", WHAT,
         not_with="config"),
    Flag("what", "benchmark", one_of("gpu", "scale"), "gpu: all that wants one; scale: a data set "
         "of ChestX-ray14's size, from films to report; into the folder --output", WHAT,
         not_with="config"),
    Flag("films", "benchmark", COUNT, "films for --what=scale; 112,120 "
         "by default", WHAT, only_with="what"),
    Flag("against", "benchmark", one_of("torch"), "the same network in PyTorch beside it", WHAT),
    Flag("size", "benchmark", COUNT, "side of the films, instead of the config's", WHAT),
    Flag("batch", "benchmark", COUNT, "films in a batch, instead of the config's", WHAT),
    Flag("repeats", "benchmark", COUNT, "turns of each side", WHAT, 5),
    Flag("method", "explain", one_of("grad_cam", "grad_cam_plus_plus", "cam",
         "occlusion", "attention_rollout"), "how they are made", HEAT, "grad_cam"),
    Flag("threshold", "explain", SHARE, "a region is what reaches this part of a map's maximum",
         HEAT, 0.5),
    Flag("finer", "explain", COUNT, "maps N times as fine as the last map (N*N passes)", HEAT, 1),
    Flag("spread", "explain", SWITCH, "spread each cell's heat over all that the cell sees", HEAT,
         False),
    Flag("findings", "explain", LIST, "these findings only, as in Mass,Nodule", HEAT),
    Flag("max_films", "explain", COUNT, "films on a contact sheet", HEAT, 12),
    Flag("host", "serve", TEXT, "address to be reached at; another than this machine's own lets "
         "others in, without a password", OUT, "127.0.0.1"),
    Flag("port", "serve", PORT, "of that address", OUT, 7860),
    Flag("max_films", "serve", COUNT, "films that one session may hold", DATA, 50),
    Flag("max_mb", "serve", COUNT, "megabytes that one film's file may have", DATA, 64),
    Flag("allow_changed_films", "train", SWITCH, "go on although the films are not those that the "
         "run began with; the run is marked", WHAT, False),
    Flag("allow_seen", "calibrate evaluate compare explain", SWITCH, "also films that the run, or "
         "what it came from, was trained or tuned on; all that is written says so", WHAT, False),
    Flag("profile", "train", SWITCH, "a profile of a few steps in workdir/profile, for TensorBoard",
         OUT, False),
    Flag("output", "recalibrate", PLACE, "folder for the new run", OUT, needed="recalibrate"),
    Flag("output", "evaluate explain", PLACE, "folder; by default in the workdir", OUT),
    Flag("output", "compare", PLACE, "folder; by default beside the runs", OUT),
    Flag("output", "predict", PLACE, "table (.csv, or .jsonl for JSON lines) or folder; "
         "predictions.csv in the workdir by default", OUT),
    Flag("output", "export", PLACE, "file, NAME.cxrjax or NAME.onnx", OUT, needed="export"),
    Flag("format", "export", one_of("jax", "onnx"), "for jax alone (NAME.cxrjax) or for ONNX "
         "(NAME.onnx)", OUT, "jax"),
    Flag("maps", "export", SWITCH, "it gives the heat maps, too", WHAT, False),
    Flag("with_resize", "export", SWITCH, "films of any size go in: they are resized (and "
         "artefacts removed) by the program itself", WHAT, False),
    Flag("resume", "predict", SWITCH, "go on with a table that was broken off, or whose folder "
         "has grown", OUT, False),
    Flag("overwrite", "evaluate compare explain", SWITCH, "whatever the folder holds", OUT, False),
    Flag("overwrite", "export", SWITCH, "replace a file that is there", OUT, False),
    Flag("overwrite", "predict", SWITCH, "begin a new table where there is one", OUT, False,
         not_with="resume"),
    Flag("output", "benchmark", PLACE, "path without suffix; 'benchmark' by default", OUT),
    Flag("to", "publish", PLACE, "new folder, or hub:USER/NAME", OUT, needed="publish"),
    Flag("license", "publish", TEXT, "of the weights, as cc-by-4.0; else the card says that none "
         "is stated", OUT),
    Flag("public", "publish", SWITCH, "everybody may read the hub's repository that is made; else "
         "its owner alone", OUT, False),
    Flag("layout", "predict", one_of("wide", "long"), "a row per film, or per film and label",
         OUT, "wide"),
    Flag("show_cleaned", "predict", SWITCH, "pictures before and after artefact removal", OUT,
         False),
    Flag("coordinator", "train evaluate", ADDRESS, "where process 0 is, the same in every process; "
         "auto: as SLURM, Open MPI or the cloud says", MANY),
    Flag("num_processes", "train evaluate", COUNT, "how many processes there are", MANY,
         only_with="coordinator"),
    Flag("process_id", "train evaluate", INDEX, "which of them this is, from 0", MANY,
         only_with="coordinator"),
)
# Of every mode, and of no interest to most: how much the libraries say, from -3 (nothing) to 1.
VERBOSITY = Flag("verbosity", " ".join(MODES), Kind("N", _number(int, "from -3 to 1", -3, 1)), "",
                 RUN)
# What stands for a flag in a mode that does not take it, where there is something.
INSTEAD = {
    ("publish", "output"): "give --to=FOLDER or --to=hub:USER/NAME",
    ("prepare", "workdir"): "the films go to --config.dataset.data_dir",
    ("prepare", "output"): "the films go to --config.dataset.data_dir",
    ("prepare", "data_dir"): "the films go to --config.dataset.data_dir",
    ("prepare", "images"): "the raw folder is --config.dataset.raw_dir",
    ("train", "output"): "a run is written to --workdir",
    ("train", "data_dir"): "give --config.dataset.data_dir",
    ("train", "images"): "--config names the films; to read new ones: --mode=predict",
    ("compare", "workdir"): "give --workdirs=runs/a,runs/b",
    ("benchmark", "workdir"): "give --config or --models: untrained networks are measured",
    ("evaluate", "workdirs"): "give one --workdir; side by side: --mode=compare",
    ("evaluate", "config"): "the run's own config is in its checkpoint; films that were moved: "
                            "--data_dir, another hospital's: --dataset",
    ("evaluate", "images"): "a run is judged on a split of its data set; to read films on disk: "
                            "--mode=predict",
    ("predict", "config"): "the run's own config is in its checkpoint",
    ("recalibrate", "config"): "the run's own config is in its checkpoint",
    ("view", "config"): "the run's own config is in its checkpoint",
}


def flags_of(mode: str) -> dict[str, Flag]:
    """{name: row} of the flags that a mode takes, in the table's order."""
    return {flag.name: flag for flag in FLAGS if mode in flag.modes.split()}
