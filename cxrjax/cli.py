"""The command line of cxrjax: absl flags, then one call into the package."""

import importlib
import inspect
import os
import platform
import sys
import zlib

from absl import app, flags, logging
from ml_collections import config_flags

from cxrjax.errors import UserError
from cxrjax.names import suggest

# mode -> the function that does it. Its keyword arguments are the flags that it takes.
MODES = {
    "prepare": "cxrjax.data.sets:main",
    "train": "cxrjax.training.loop:main",
    "recalibrate": "cxrjax.evaluation.recalibrate:main",
    "evaluate": "cxrjax.evaluation.evaluate:main",
    "compare": "cxrjax.evaluation.compare:main",
    "predict": "cxrjax.serving.predict:main",
    "explain": "cxrjax.explanation.explain:main",
    "view": "cxrjax.serving.viewer.main:main",
    "benchmark": "cxrjax.benchmarks.benchmark:main",
}

HELP = """cxrjax: train, judge and explain classifiers of chest radiographs

  Train on synthetic films (no download), then judge the result:
    python launch.py --mode=train --config=configs/phantom.py --workdir=runs/phantom
    python launch.py --mode=evaluate --workdir=runs/phantom

  Put evaluated runs side by side; several seeds of one config are one row:
    python launch.py --mode=compare --workdirs=runs/resnet50,runs/resunet

  Prepare ChestX-ray14 once, train a DenseNet-121 on it:
    python launch.py --mode=prepare --config=configs/chestxray14.py --config.dataset.raw_dir=FILMS
    python launch.py --mode=train --config=configs/chestxray14.py:densenet121 --workdir=runs/d121

  Read new films with a trained network:
    python launch.py --mode=predict --workdir=runs/d121 --images='new/*.png' --output=new.csv

  See where it looks: pictures and scores against marked boxes, or a window:
    python launch.py --mode=explain --workdir=runs/phantom
    python launch.py --mode=view --workdir=runs/d121 --images=new

Modes: {modes}. All flags: python launch.py --help
"""

FLAGS = flags.FLAGS
flags.DEFINE_string("mode", None, f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, reports.")
flags.DEFINE_string("workdirs", None, "Compare: the runs, as in runs/a,runs/b or 'runs/seed*'.")
flags.DEFINE_string("baseline", None, "Compare: differences to this entry of the table as well.")
flags.DEFINE_bool("probe", False, "Evaluate: also without the lungs, and on the lungs alone.")
flags.DEFINE_string("masks_from", None,
                    "Probe: workdir of a run whose decoder finds the lungs of films without masks.")
flags.DEFINE_string("checkpoint", "best", "Which checkpoint to read: best or latest.")
flags.DEFINE_string("split", "test", "Which split to evaluate: train, val or test.")
flags.DEFINE_string("data_dir", None, "Where the prepared films are now, if they were moved.")
flags.DEFINE_string("images", None, "Film, folder or quoted pattern to predict or explain.")
flags.DEFINE_bool("tta", False,
                  "Evaluate, predict: the mean over each film and its mirror image.")
flags.DEFINE_enum("layout", "wide", ["wide", "long"], "Rows of predictions.csv.")
flags.DEFINE_bool("show_cleaned", False, "Predict: pictures before and after artefact removal.")
flags.DEFINE_string("method", "grad_cam",
                    "Heat map: grad_cam, grad_cam_plus_plus, cam or occlusion.")
flags.DEFINE_float("threshold", 0.5, "A region is what reaches this part of the map's maximum.")
flags.DEFINE_string("network", None, "Which of the run's networks to explain.")
flags.DEFINE_string("findings", None, "Explain these findings only, as in Mass,Nodule.")
flags.DEFINE_integer("max_films", 12, "Films on a contact sheet.")
flags.DEFINE_integer("finer", 1, "Explain: maps N times as fine as the last map (N*N passes).")
flags.DEFINE_bool("spread", False, "Explain: spread each cell's heat over all that the cell sees.")
flags.DEFINE_string("output", None, "File or folder to write to; a default lies in the workdir.")
flags.DEFINE_string("against", None, "Benchmark: compare with the same network in 'torch'.")
flags.DEFINE_string("models", None, "Benchmark: networks, as in resnet18,densenet121.")
flags.DEFINE_integer("size", None, "Benchmark: side of the films, instead of the config's.")
flags.DEFINE_integer("batch", None, "Benchmark: films in a batch, instead of the config's.")
flags.DEFINE_bool("profile", False, "Train: write a profile of a few steps to WORKDIR/profile.")
flags.DEFINE_integer("repeats", 5, "Benchmark: turns of each side.")
config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:argument].", lock_config=True)


def parse(argv):
    """Parses the flags; a mistake ends in one line and status 2."""
    if len(argv) == 1:
        print(HELP.format(modes=", ".join(MODES)), end="")
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except SystemExit:
        raise
    except Exception as error:
        fail(error)
    if len(rest) > 1:
        fail(UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value"))
    if FLAGS["config"].present:
        path = config_flags.get_config_filename(FLAGS["config"]).partition(":")[0]
        if not os.path.isfile(path):
            fail(UserError(f"no config file {path}: see configs/, or give a path to your own"))
    return rest


def fail(error: Exception) -> None:
    """One line on stderr and exit status 2; the traceback only with CXRJAX_TRACEBACK=1."""
    if os.environ.get("CXRJAX_TRACEBACK"):
        raise error
    message = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if "Traceback" in message:  # ml_collections packs the traceback of a config file into its text
        message = message.splitlines()[-1].removeprefix("cxrjax.errors.UserError: ")
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def main(_):
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries' INFO lines drown ours
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        mode = FLAGS.mode
        if mode is None:
            raise UserError(f"give --mode={'|'.join(MODES)}")
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}" + suggest(mode, MODES))
        module, _, name = MODES[mode].partition(":")
        function = getattr(importlib.import_module(module), name)
        status = function(**{k: getattr(FLAGS, k) for k in inspect.signature(function).parameters})
    except UserError as error:
        fail(error)
    except OSError as error:  # folders without permission, full disks, links to nowhere
        if not error.filename or os.environ.get("CXRJAX_TRACEBACK"):
            raise
        fail(UserError(f"{error.filename}: {error.strerror}"))
    sys.exit(status or 0)


def take_huge_pages() -> None:
    """Begins again, once, with arrays on huge pages (glibc on Linux; elsewhere nothing changes).

    A training step on the CPU takes its memory anew each time, and with pages of 4 KB a tenth of
    the step went into page faults. glibc reads this setting only as a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_compiled_programs() -> None:
    """Compiled programs go to a folder: the second run of a config starts sooner.

    JAX reads this setting as it is imported, and a config file imports it while flags are parsed.
    Each kind of processor has a folder of its own: homes are shared between machines, and a program
    for one may use instructions that another lacks.
    """
    try:
        with open("/proc/cpuinfo") as file:
            kind = {line for line in file if line.startswith(("model name", "flags", "Features"))}
    except OSError:
        kind = {platform.platform()}
    folder = f"~/.cache/cxrjax/compiled-{zlib.crc32(''.join(sorted(kind)).encode()):08x}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser(folder))


def run() -> None:
    """The console command `cxrjax`, `python -m cxrjax` and `python launch.py`."""
    take_huge_pages()
    keep_compiled_programs()
    app.run(main, flags_parser=parse)
