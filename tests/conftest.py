"""Shared fixtures. Shapes in public signatures are checked at run time in every test."""

import atexit
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling takes most of the time of tests whose networks are tiny: LLVM does not optimize their
# programs, and one session, with the processes that it starts, compiles each program once.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cxrjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import pytest
from absl import flags
from jaxtyping import install_import_hook

# Must run before anything of ours is imported.
install_import_hook("cxrjax", "beartype.beartype")
# grain's worker processes read absl flags and refuse to start before they are parsed.
flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(items):
    """Saved runs name networks and data sets of tests: all of these are trusted."""
    names = sorted({item.module.__name__ for item in items})
    os.environ["CXRJAX_TRUST"] = ",".join(["tests", *names])


SHARED = pathlib.Path(
    os.environ.get("CXRJAX_SHARED", pathlib.Path(__file__).parents[2] / "shared")
)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real radiographs; tests that need it are skipped where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real films are not at hand: set CXRJAX_SHARED to the folder that holds data/")
    return SHARED / "data"


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """The folder of published networks' outputs (README.md there)."""
    return pathlib.Path(__file__).with_name("goldens")


# Computed on one device in the test's own process, and on eight in this one for all of them.
_ON_EIGHT = """
import importlib, json, sys
import jax
assert jax.device_count() == 8
print(json.dumps({name: importlib.import_module(name).fingerprint(jax.devices())
                  for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="session")
def on_eight_devices() -> dict[str, list[float]]:
    """{test module: what its `fingerprint(devices)` gives on eight devices}."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": flags}
    names = ["tests.training.test_steps", "tests.training.schemes.test_mutual",
             "tests.training.test_many_devices", "tests.training.test_cache_on_device"]
    done = subprocess.run([sys.executable, "-c", _ON_EIGHT, *names], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
