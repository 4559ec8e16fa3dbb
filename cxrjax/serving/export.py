"""A run (or several as one) out of the door: one file that answers with jax alone."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, UInt8
from ml_collections import FrozenConfigDict
from scipy import ndimage

from cxrjax import __version__
from cxrjax.data import films_on_disk, progress
from cxrjax.errors import UserError
from cxrjax.evaluation.compare import find_workdirs
from cxrjax.explanation import cam, heatmaps
from cxrjax.models import convolutions, folding
from cxrjax.names import scheme_of
from cxrjax.serving import card, exported, onnx_graph, preparing, sources
from cxrjax.serving.sources import Member, Source
from cxrjax.tables import finite
from cxrjax.training import experiment, steps
from cxrjax.training.workdir import replacing, write_text

PLATFORMS = ("cpu", "cuda")
SAME_ONNX = 1e-4  # of what onnxruntime answers from what JAX does
SAME = 1e-5  # of what is exported from what `predict` answers
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # GPUs multiply float32 by shorter numbers


def answer_of(members: Sequence[Member], names: Sequence[str], maps: bool) -> Callable:
    """Films u8[b, s, s, 1] -> {'probabilities': f32[b, k], 'map': f32[b, k, h, w] if asked for}.

    Probabilities are calibrated where a run is; of several runs they are the mean, and so is the
    map.
    """
    compiled = [heatmaps.make(m.run, name, "grad_cam") if maps else None
                for m, name in zip(members, names)]

    def probabilities(own: Member, name: str, logits: Array) -> Array:
        logits = logits.astype(jnp.float32)
        if name in own.answers.maps:
            found = own.answers.maps[name]
            slope, shift = (jnp.asarray(found[key], jnp.float32) for key in ("slope", "intercept"))
            logits = logits * slope + shift
        if own.run.meta["task"] == "multilabel":
            return jax.nn.sigmoid(logits)
        return jax.nn.softmax(logits, axis=-1)

    def answer(image: UInt8[Array, "b s s 1"]) -> dict[str, Array]:
        found, heat = [], []
        for own, name, mapped in zip(members, names, compiled):
            out = (own.run.predict(own.run.states, image)[name] if mapped is None
                   else mapped(own.run.states, image))
            found.append(probabilities(own, name, out["logits"]))
            heat += [] if mapped is None else [out["heat"]]
        result = {"probabilities": sum(found) / len(found)}
        if maps:
            size = tuple(max(h.shape[axis] for h in heat) for axis in (2, 3))
            result["map"] = sum(h if h.shape[2:] == size else cam.align(h, (0, 0), size)
                                for h in heat) / len(heat)
        return result

    return answer


def golden_film(size: int) -> UInt8[np.ndarray, "1 s s 1"]:
    """A film that is no patient's: a rough chest of a few numbers, the same for every size."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    film = 170 - 20 * y + 50 * np.exp(-((x / 0.18) ** 2))
    film -= 130 * np.exp(-((((abs(x) - 0.48) / 0.28) ** 2 + (y / 0.6) ** 2) ** 2))
    film += 40 * ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 40) * size / 40
    return np.clip(np.rint(film), 0, 255).astype(np.uint8)[None, :, :, None]


def whole_film(size: int) -> UInt8[np.ndarray, "1 h w 1"]:
    """`golden_film` as a film that has yet to be prepared: larger, no square, a wire across it."""
    film = golden_film(2 * size + 5)[:, : size + size // 2 + 2].copy()
    film[:, :, size : size + 3] = 255
    return film


def prepared_inside(answer: Callable, size: int, preparation: Mapping[str, Any]) -> Callable:
    """The answer to films u8[b, h, w, 1] of any size, which it prepares itself."""
    return lambda film: answer(preparing.prepare(film, size, preparation))


def serialize(answer: Callable, size: int | None) -> bytes:
    """The function with its weights, for any number of films and the `PLATFORMS`.

    `size` is the side of the films; None: any height and width.
    """
    batch, height, width = jax_export.symbolic_shape("b, h, w")
    film = jax.ShapeDtypeStruct((batch, size or height, size or width, 1), np.uint8)
    with convolutions.traced_for("each"):
        return bytes(jax_export.export(jax.jit(answer), platforms=PLATFORMS)(film).serialize())


def folded(own: Member, size: int) -> Member:
    """The run with its batch norms folded into convolutions, where it computes in float32.

    In bfloat16 the kernels would be rounded anew.
    """
    if _dtype(own) != "float32":
        return own
    film = jax.ShapeDtypeStruct((1, size, size, 1), np.uint8)
    states, norms, among = folding.fold(own.run.predict, own.run.states, film)
    if among:
        print(f"{norms} of {among} batch norms are folded into convolutions")
    return dataclasses.replace(own, run=dataclasses.replace(own.run, states=states))


def manifest_of(
    members: Sequence[Member], names: Sequence[str], source: Source, maps: Any,
    with_resize: bool = False,
) -> dict[str, Any]:
    """All that is to be known of the network without the program; hashes are added in writing."""
    first = members[0].run
    size, preparation = source.ways[0]
    points = next(iter(source.thresholds.values()), None)
    dtypes = {_dtype(own) for own in members}
    return {
        "cxrjax": __version__, "jax": jax.__version__, "flax": flax.__version__,
        "labels": list(source.labels), "task": source.task,
        "network": source.networks[0] if len(members) > 1 else names[0],
        "input": {"shape": ["b", *(["h", "w"] if with_resize else [size, size]), 1],
                  "dtype": "uint8",
                  "meaning": "8-bit gray, white is dense; " + (
                      "of any size, which the program prepares" if with_resize else
                      "resized, artefacts removed where 'preparation' says so")},
        "output": {"probabilities": ["b", len(source.labels)],
                   **({"map": ["b", *maps]} if maps else {})},
        "preparation": {"fit": "stretch", "remove_artifacts": False, **preparation,
                        "size": size, "inside": with_resize},
        "normalisation": {"inside": True, "values": "0..255 become 0..1, then (x - mean) / std",
                          "mean": first.config.normalize.mean, "std": first.config.normalize.std},
        "platforms": list(PLATFORMS),
        "calibrated": source.calibrated,
        "calibration": [own.answers.as_json()["calibration"] for own in members],
        "operating_points": {
            "rule": source.rule or "",
            "thresholds": None if points is None else finite(
                dict(zip(source.labels, points.tolist()))),
        },
        "tolerance": max(TOLERANCE.get(d, TOLERANCE["float32"]) for d in dtypes),
        "figures": [_figures(own, name) for own, name in zip(members, names)],
        "provenance": [_provenance(own, name) for own, name in zip(members, names)],
        "intended_use": card.purpose_of(first),
    }


def _figures(own: Member, name: str) -> dict[str, Any] | None:
    """The figures with their intervals of the run's own test split, where it was evaluated."""
    path = pathlib.Path(own.workdir) / "evaluation" / "test" / "report.json"
    try:
        report = json.loads(path.read_text())
        if report["run"]["step"] != own.run.step:
            return None
        judged = report["networks"][name]
        return {"split": report["split"], "protocol": report["protocol"],
                "films": report["films"], "macro": judged["macro"],
                "labels": judged["per_label"]}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _provenance(own: Member, name: str) -> dict[str, Any]:
    run = own.run
    return {
        "run": pathlib.Path(own.workdir).resolve().name, "network": name, "step": run.step,
        "weights": sources.weights_of(run), "scheme": run.config.scheme.name,
        "seed": run.config.seed, "dataset": run.config.dataset.name,
        "protocol": run.meta["dataset"].get("protocol", ""), "trained_with": run.meta["versions"],
        "films_trained_on": len(run.meta["ids"].get("train", ())),
        "recalibrated": run.meta.get("recalibrated", ""), "tta": run.tta,
    }


def main(
    workdir: str | None, output: str | None, workdirs: str | None = None,
    checkpoint: str = "best", network: str | None = None, maps: bool = False, tta: bool = False,
    overwrite: bool = False, format: str = "jax", with_resize: bool = False,
) -> None:
    """`--mode=export`: writes the file, and checks it against what `predict` answers.

    Raises:
      UserError: a suffix that is not the format's, a file that is there, runs that are no ensemble
        or want their films in different ways, or a network that does not export.
    """
    path = pathlib.Path(output or "")
    suffix = {"jax": ".cxrjax", "onnx": ".onnx"}[format]
    if path.suffix != suffix:
        raise UserError(f"--output={output}: a model exported with --format={format} ends in "
                        f"{suffix}")
    if format == "onnx":
        _need_onnx()
        if with_resize:
            raise UserError("--with_resize is for --format=jax: ONNX has no resizing as "
                            f"Pillow's; {path.name}.json will say how its films are prepared")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: --overwrite replaces it")
    if not path.resolve().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if bool(workdir) + bool(workdirs) != 1:
        raise UserError("give one of --workdir=FOLDER of a training and --workdirs=A,B of an "
                        "ensemble")
    if workdirs and network:
        raise UserError("--network is for --workdir: of an ensemble each run answers by its own")
    folders = find_workdirs(workdirs) if workdirs else [workdir]
    members = [sources.member(folder, checkpoint, tta) for folder in folders]
    names = [heatmaps.choose_network(own.run, network) for own in members]
    source = sources.of_ensemble(members) if workdirs else sources.of_run(members[0], names[0])
    if len(source.ways) > 1:
        raise UserError("the runs want their films in different ways "
                        f"({'; '.join(str(way) for way in source.ways)}): one file takes one")
    slow = ", which takes minutes for large networks" if format == "onnx" else ""
    progress.say(f"writing {path}{slow}")
    if format == "onnx":
        difference = write_onnx(path, members, names, source, maps)
        if any(_in_float32(own) is not own for own in members):
            print(f"{path} computes in float32, the run in bfloat16")
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MB, beside it {path.name}.json; "
              f"onnxruntime differs by {difference:.1g} from JAX")
        return
    difference = write(path, members, names, source, maps, with_resize)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MB, {' and '.join(PLATFORMS)}; its golden "
          f"pair differs by {difference:.1g} from predict")


def write(
    path: pathlib.Path, members: Sequence[Member], names: Sequence[str], source: Source,
    maps: bool = False, with_resize: bool = False,
) -> float:
    """Writes the file and reads it back; the largest difference from what `predict` answers."""
    size, preparation = source.ways[0]
    answer = answer_of([folded(own, size) for own in members], names, maps)
    if with_resize:
        answer = prepared_inside(answer, size, preparation)
    try:
        program = serialize(answer, None if with_resize else size)
    except (TypeError, ValueError, NotImplementedError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"{', '.join(names)} cannot be exported ({type(error).__name__}: {words})"
                        ) from None
    film = whole_film(size) if with_resize else golden_film(size)
    rebuilt = jax.jit(jax_export.deserialize(bytearray(program)).call)(film)
    golden = {"film": film, **{key: np.asarray(value) for key, value in rebuilt.items()}}
    ready = (films_on_disk.as_prepared(film[0, ..., 0], size, preparation)[None] if with_resize
             else film)
    batch = np.repeat(ready, source.batch, axis=0)
    (ours,) = source.finish(source.start([batch]), 1).values()
    difference = float(np.abs(ours.probabilities - golden["probabilities"]).max())
    manifest = manifest_of(members, names, source,
                           golden["map"].shape[1:] if maps else None, with_resize)
    if not difference <= (SAME if manifest["tolerance"] == TOLERANCE["float32"]
                          else manifest["tolerance"]):
        raise UserError(f"{', '.join(names)}: what was exported differs by {difference:.2g} from "
                        "what predict answers: please report this")
    exported.write(path, program, manifest, golden)
    exported.check_golden(exported.read(path), path)
    return difference


def _as_float32(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {key: "float32" if (key, value) == ("dtype", "bfloat16") else _as_float32(value)
            for key, value in fields.items()}


def _dtype(own: Member) -> str:
    """What its networks compute in: 'bfloat16' where one of them does."""
    fields = own.run.config.to_dict()
    return "float32" if _as_float32(fields) == fields else "bfloat16"


def _in_float32(own: Member) -> Member:
    """The run with networks that compute in float32, whatever they were trained in.

    ONNX has few operations on bfloat16, and its runtimes fewer.
    """
    if _dtype(own) == "float32":
        return own
    config = FrozenConfigDict(experiment.as_tuples(_as_float32(own.run.config.to_dict())))
    predict = scheme_of(config).make_predict(config)
    predict = steps.with_mirror(predict) if own.run.tta else predict
    return dataclasses.replace(
        own, run=dataclasses.replace(own.run, config=config, predict=predict))


def _need_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f'--format=onnx needs {" and ".join(missing)}: pip install "cxrjax[onnx]"')


def write_onnx(
    path: pathlib.Path, members: Sequence[Member], names: Sequence[str], source: Source,
    maps: bool = False,
) -> float:
    """Writes the model for ONNX and its manifest beside it, where onnxruntime answers as JAX does.

    Returns:
      The largest difference of its outputs from JAX's.

    Raises:
      UserError: a part of the network that is not translated, by its name, weights of more than 2
        GiB, or another answer.
    """
    import onnxruntime

    members, size = [_in_float32(own) for own in members], source.ways[0][0]
    answer = answer_of(members, names, maps)
    with convolutions.traced_for("plain"):
        data = onnx_graph.to_model(answer_of([folded(own, size) for own in members], names, maps),
                                   size, names[0]).SerializeToString()
    film = golden_film(size)
    films = np.concatenate([film, film[:, :, ::-1], 255 - film])
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = [out.name for out in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {"film": films})))
    ours = {key: np.asarray(value) for key, value in jax.jit(answer)(jnp.asarray(films)).items()}
    most = max(float(np.abs(found[key] - value).max()) / max(1.0, float(np.abs(value).max()))
               for key, value in ours.items())
    if not most <= SAME_ONNX:
        raise UserError(f"{', '.join(names)}: onnxruntime's answer differs by {most:.2g} from "
                        "JAX's: it is not exported")
    manifest = manifest_of(members, names, source, ours["map"].shape[1:] if maps else None)
    del manifest["platforms"]
    sidecar = {"kind": "cxrjax model for ONNX", **manifest, "opset": onnx_graph.OPSET,
               "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
               "checked": {"onnxruntime": onnxruntime.__version__, "largest difference": most}}
    with replacing(path) as partial:
        partial.write_bytes(data)
    write_text(path.with_name(f"{path.name}.json"), json.dumps(sidecar, indent=1) + "\n")
    return most
