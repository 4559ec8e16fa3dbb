"""One file that answers without cxrjax: what is in it, read back by whoever was handed it.

`NAME.cxrjax` is a zip of three members, and jax alone reads them:

    model.stablehlo   the network and its weights, by `jax.export`: films u8[b, S, S, 1] in (of any
                      size where it prepares them itself),
                      {'probabilities': f32[b, K], 'map': f32[b, K, h, w] where asked for} out
    manifest.json     labels, how films are prepared, operating points, calibration, figures, where
                      it is from, what it is for, and the hashes of the other two and of itself
    golden.npz        a synthetic `film`, and the `probabilities` (and `map`) that it must give

The hashes say that a file is whole, not whom it is from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from cxrjax.errors import UserError
from cxrjax.serving.sources import HIGHEST, Answered, Source
from cxrjax.training.workdir import replacing

KIND, VERSION = "cxrjax model", 1
PROGRAM, MANIFEST, GOLDEN = "model.stablehlo", "manifest.json", "golden.npz"
# No member may unpack to more: a small file could fill the memory.
MOST = {PROGRAM: 4 << 30, MANIFEST: 16 << 20, GOLDEN: 64 << 20}
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was read.

    Attributes:
      manifest: as in the file.
      program: from `jax.export.deserialize`.
      golden: arrays of the pair.
    """

    manifest: Mapping[str, Any]
    program: export.Exported
    golden: Mapping[str, np.ndarray]


def write(
    path: pathlib.Path, program: bytes, manifest: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
) -> None:
    """Writes the file whole; the manifest gains the hashes."""
    pair = io.BytesIO()
    np.savez(pair, **golden)
    members = {PROGRAM: program, GOLDEN: pair.getvalue()}
    facts = {"kind": KIND, "version": VERSION, **manifest,
             "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}}
    facts["sha256"][MANIFEST] = hash_of(facts)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
        file.writestr(MANIFEST, json.dumps(facts, indent=1, allow_nan=False) + "\n")


def hash_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own hash."""
    others = {k: v for k, v in manifest["sha256"].items() if k != MANIFEST}
    whole = {**manifest, "sha256": others}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def read(path: pathlib.Path) -> Exported:
    """A file of `write`, checked: names, sizes, hashes, form.

    Raises:
      UserError: it is none, is damaged or changed, or of another version.
    """
    try:
        members = _members(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a model that cxrjax exported ({error})") from None
    manifest = _manifest(path, members[MANIFEST])
    for name in (PROGRAM, GOLDEN):
        if hashlib.sha256(members[name]).hexdigest() != manifest["sha256"].get(name):
            raise UserError(f"{path}: {name} is not the one that was exported (its hash differs): "
                            "fetch the file again")
    try:
        golden = _arrays(members[GOLDEN])
        program = export.deserialize(bytearray(members[PROGRAM]))
        (film,) = program.in_avals
        sides = tuple(manifest["input"]["shape"][1:3])
        if str(film.dtype) != "uint8" or tuple(map(str, film.shape[1:])) != (
                *map(str, sides), "1"):
            raise ValueError(f"it takes {film}")
        pair = golden["film"]
        if pair.dtype != np.uint8 or pair.ndim != 4 or not inside(manifest) and (
                pair.shape[1:] != film.shape[1:]):
            raise ValueError("the golden film is of another size")
        if golden["probabilities"].shape != (len(golden["film"]), len(manifest["labels"])):
            raise ValueError("the golden answer is to other labels")
    except Exception as error:  # a flat buffer that is none fails in many ways
        words = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: its network cannot be read by jax {jax.__version__} "
                        f"({type(error).__name__}: {words})") from None
    return Exported(manifest, program, golden)


def _members(path: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        names = [info.filename for info in file.infolist()]
        if sorted(names) != sorted(MOST):
            raise ValueError(f"it holds {', '.join(map(repr, names[:4])) or 'nothing'}")
        found = {}
        for info in file.infolist():
            most = MOST[info.filename]
            with file.open(info) as member:
                found[info.filename] = member.read(most + 1)
            if len(found[info.filename]) > most:
                raise ValueError(f"{info.filename} unpacks to more than {most >> 20} MB")
    return found


def _manifest(path: pathlib.Path, data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data)
        kind, version, hashes = facts["kind"], facts["version"], facts["sha256"]
        whole = hash_of(facts) == hashes[MANIFEST]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: its {MANIFEST} is none of a model that cxrjax exported"
                        ) from None
    if kind != KIND or not isinstance(version, int):
        raise UserError(f"{path}: not a model that cxrjax exported (its kind is {kind!r:.80})")
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise UserError(f"{path}: exported by {age} version of cxrjax (form {version}, this one "
                        f"reads {VERSION}): export it again, or install that version")
    if not whole:
        raise UserError(f"{path}: its {MANIFEST} was changed after the export (its hash differs)")
    return facts


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        if sum(info.file_size for info in inner.infolist()) > MOST[GOLDEN]:
            raise ValueError("the golden pair unpacks to too much")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def inside(manifest: Mapping[str, Any]) -> bool:
    """Whether the program prepares films of any size itself."""
    return bool(manifest["preparation"].get("inside"))


def check_golden(found: Exported, path: pathlib.Path) -> float:
    """The largest difference of the golden pair, computed here.

    Raises:
      UserError: it is more than the manifest allows, or this platform is none that it is for.
    """
    platform = jax.default_backend()
    if {"gpu": "cuda"}.get(platform, platform) not in found.program.platforms:
        raise UserError(f"{path} was exported for {' and '.join(found.program.platforms)}, and "
                        f"here computes {platform}: set JAX_PLATFORMS=cpu")
    answer = jax.jit(found.program.call)(found.golden["film"])
    most = float(np.abs(np.asarray(answer["probabilities"])
                        - found.golden["probabilities"]).max())
    if not most <= found.manifest["tolerance"]:
        raise UserError(f"{path}: the golden film's probabilities differ by {most:.2g} from those "
                        f"of the export (allowed: {found.manifest['tolerance']:g}): this machine "
                        "does not compute the network that was exported")
    return most


def source(path: pathlib.Path) -> Source:
    """A file as what answers; its golden pair is checked first.

    Raises:
      UserError: see `read` and `check_golden`.
    """
    found = read(path)
    difference = check_golden(found, path)
    facts, call = found.manifest, jax.jit(found.program.call)
    labels, name = tuple(facts["labels"]), facts["network"]
    points = facts["operating_points"]
    thresholds = {}
    if points["thresholds"] is not None and facts["task"] != "multiclass":
        values = [points["thresholds"].get(label) for label in labels]
        thresholds[name] = np.array([np.nan if v is None else v for v in values], float)
    print(f"{path}: the golden pair holds (largest difference {difference:.1g})")

    def finish(started, films):
        return {name: Answered(np.asarray(started["probabilities"], np.float64)[:films])}

    # What takes any size is given one film at a time, as it is.
    way, batch = (0, 1) if inside(facts) else (facts["input"]["shape"][1], BATCH)
    return Source(
        labels=labels, task=facts["task"], networks=(name,),
        ways=((way, facts["preparation"]),), batch=batch, devices=1,
        thresholds=thresholds,
        rule=HIGHEST if facts["task"] == "multiclass" else points["rule"] * bool(thresholds),
        calibrated=facts["calibrated"], spread=False,
        about={"model": path.name, "sha256": facts["sha256"][MANIFEST]},
        _start=lambda images: call(images[0]), _finish=finish,
    )
