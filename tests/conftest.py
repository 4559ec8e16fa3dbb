"""Shared fixtures. Shapes in public signatures are checked at run time in every test."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from absl import flags
from jaxtyping import install_import_hook

# Must run before anything of ours is imported.
install_import_hook("cxrjax", "beartype.beartype")
# grain's worker processes read absl flags and refuse to start before they are parsed.
flags.FLAGS.mark_as_parsed()

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
