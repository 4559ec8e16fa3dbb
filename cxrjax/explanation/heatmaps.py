"""Heat maps of a restored run: any of its networks, any method, all labels in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from cxrjax.data import input_pipeline
from cxrjax.errors import UserError
from cxrjax.explanation import cam
from cxrjax.metrics import localization, ranking
from cxrjax.models import heads
from cxrjax.names import scheme_of, suggest
from cxrjax.training import steps
from cxrjax.training.restored import Run

METHODS = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "cam": "CAM",
    "occlusion": "occlusion",
}
# Of networks that attend, which have it among their outputs.
ATTENTION = {"attention_rollout": "attention rollout"}
TITLES = {**METHODS, **ATTENTION}
FINE = 256  # pixels along a side of the maps that boxes are found on
GRID = 14  # cells along a side of the film in occlusion
SPOTS = 32  # at which the place of the cells is measured
BATCH = 16  # gradients of all labels are held at once


Regions = tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " 2"]]  # see `regions`


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One film, explained.

    Attributes:
      name: of the film.
      probabilities: of the K labels.
      heat: a map per label on the network's square; above zero speaks for the label. Of a
        `reduced` one {label: map}.
      mask: probability of each structure on the network's square, None without a decoder.
      found: {label: `regions` of its map} of the maps that were judged and not kept.
    """

    name: str
    probabilities: Float[np.ndarray, " k"]
    heat: Float[np.ndarray, "k h w"] | dict[int, Float[np.ndarray, "h w"]]
    mask: Float[np.ndarray, "s s m"] | None = None
    found: Mapping[int, Regions] = dataclasses.field(default_factory=dict)

    def reduced(
        self, shown: Collection[int], judged: Collection[int] = (), threshold: int | float = 0.5
    ) -> Explanation:
        """The film with the maps of `shown` alone, and what is to be known of those `judged`."""
        return Explanation(
            self.name, self.probabilities, {k: self.heat[k].copy() for k in shown},
            found={k: regions(self.heat[k], threshold) for k in judged},
        )


def choose_network(run: Run, network: str | None = None) -> str:
    """The answer to explain: the one asked for, else what the run merges its networks to.

    Raises:
      UserError: the run has no such answer, or it does not know all labels.
    """
    known = steps.answers_of(run.predict, run.states, run.config)
    if network and network not in known:
        raise UserError(f"no network {network!r} in this run" + suggest(network, known))
    return network or known[0]


def make(
    run: Run, network: str, method: str, finer: int = 1, spread: bool = False
) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """(states, image u8[b,s,s,1]) -> {logits f32[b,k], heat f32[b,k,h,w], ...}, compiled.

    With 'cam' comes `gap` f32[b] (see `cam.linear_cam`), with a decoder `mask_logits`.

    Maps are four times as fine as the network's last map, and moved to where its cells look (see
    `measure_view`). An answer that has no `features` of its own is merged out of the other
    networks': its maps are the sums of theirs, each by the gradient of the merged logit.

    Args:
      finer: how many times as fine the last map itself is made along each side, see `between`; the
        price is `finer` squared passes.
      spread: every cell's heat is spread over what the cell sees, see `cam.spread`.

    Raises:
      UserError: unknown method, a network without a last map to explain by, or finer or spread
        maps of occlusion, which does not use a last map.
    """
    if method not in TITLES:
        raise UserError(f"unknown method {method!r}" + suggest(method, TITLES))
    if finer < 1:
        raise UserError(f"--finer={finer}: how many times as fine, 1 or more")
    if method in ("occlusion", "attention_rollout") and (finer > 1 or spread):
        raise UserError("--finer and --spread are about a network's last map, which --method="
                        f"{method} does not use: leave them out, or use --method=grad_cam")

    def by_occlusion(states: Any, image: jax.Array) -> dict[str, jax.Array]:
        image = steps.to_unit(image)
        outputs = run.predict(states, image)[network]
        heat = cam.occlusion(lambda x: run.predict(states, x)[network]["logits"], image, GRID)
        kept = {k: outputs[k] for k in ("logits", "mask_logits") if k in outputs}
        return {**kept, "heat": heat}

    def by_attention(states: Any, image: jax.Array) -> dict[str, jax.Array]:
        outputs = run.predict(states, steps.to_unit(image))
        out = outputs[network]
        owners = [out] if "rollout" in out else [o for o in outputs.values() if "rollout" in o]
        if not owners:
            raise UserError(
                f"the network {network!r} is no transformer and has no attention to roll out: use "
                "--method=grad_cam"
            )
        size = tuple(min(FINE, 4 * max(o["rollout"].shape[axis] for o in owners))
                     for axis in (1, 2))
        # Attention knows no labels: every label gets the same map.
        heat = sum(cam.align(o["rollout"], (0, 0), size) for o in owners)
        heat = jnp.repeat(heat[:, None], out["logits"].shape[-1], 1)
        kept = {k: out[k] for k in ("logits", "mask_logits") if k in out}
        return {**kept, "heat": heat}

    if method == "occlusion":
        return jax.jit(by_occlusion)
    if method == "attention_rollout":
        return jax.jit(by_attention)
    views = measure_view(run, network)

    def by_features(states: Any, image: jax.Array) -> dict[str, jax.Array]:
        def forward(x):
            outputs = run.predict(states, x)
            out = outputs[network]
            more = {k: out[k] for k in ("mask_logits",) if k in out}
            return out["logits"], maps_of(outputs, network), more

        def found(x: jax.Array) -> tuple[list[jax.Array | None], dict[str, jax.Array]]:
            logits, maps, head_fns, more = heads.cut(forward, x)
            if not any(head_fns):
                raise UserError(
                    f"the network {network!r} does not compute its logits from the `features` in "
                    "its outputs, so that they cannot explain it: use --method=occlusion"
                )
            pairs = list(zip(head_fns, maps))
            if method == "cam":
                both = [h and cam.linear_cam(h, m) for h, m in pairs]
                more["gap"] = jnp.stack([b[1] for b in both if b]).max(0)
                return [b and b[0] for b in both], {**more, "logits": logits}
            heat = [h and getattr(cam, method)(h, m) for h, m in pairs]
            return heat, {**more, "logits": logits}

        image = steps.to_unit(image)
        heat, out = found(image)
        known = [i for i, h in enumerate(heat) if h is not None]
        if finer > 1:
            heat = {i: between(lambda x, i=i: found(x)[0][i], image, heat[i].shape[2], finer)
                    for i in known}
        size = tuple(min(FINE, 4 * max(heat[i].shape[axis] for i in known)) for axis in (2, 3))
        placed = [cam.align(heat[i], views[i].shift, size) for i in known]
        if spread:
            placed = [cam.spread(p, views[i].spread) for p, i in zip(placed, known)]
        return {**out, "heat": sum(placed)}

    return jax.jit(by_features)


def between(
    heat_of: Callable[[jax.Array], jax.Array], image: Float[jax.Array, "b s s 1"], cells: int,
    finer: int,
) -> Float[jax.Array, "b k _ _"]:
    """A map with values between the cells: `finer` times as many along each side.

    The film is moved by parts of a cell (its edge repeats), so that the cells fall on the places
    between; their answers are interleaved (shift and stitch: Sermanet et al., ICLR 2014,
    arXiv:1312.6229, section 3.3; Long et al., CVPR 2015, section 3.2). Nothing is interpolated.

    Args:
      heat_of: image -> map f32[b, k, cells, cells].
      cells: along a side of the map.
    """
    cell = image.shape[1] / cells
    offsets = jnp.array([round((i - (finer - 1) / 2) * cell / finer) for i in range(finer)])
    margin = math.ceil(cell)
    padded = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")

    def moved(number: jax.Array) -> jax.Array:
        start = (0, margin + offsets[number // finer], margin + offsets[number % finer], 0)
        return heat_of(jax.lax.dynamic_slice(padded, start, image.shape))

    maps = jax.lax.map(moved, jnp.arange(finer * finer))
    _, b, k, h, w = maps.shape
    maps = maps.reshape(finer, finer, b, k, h, w).transpose(2, 3, 4, 0, 5, 1)
    return maps.reshape(b, k, h * finer, w * finer)


def maps_of(outputs: Mapping[str, Any], network: str) -> list[jax.Array]:
    """The last maps behind an answer: its own, else those of the networks it is merged out of."""
    out = outputs[network]
    owners = [out] if "features" in out else [o for o in outputs.values() if "features" in o]
    return [features for o in owners for features in jax.tree.leaves(o["features"])]


class View(NamedTuple):
    """What a cell of a map looks at, in fractions of the film.

    Attributes:
      shift: how far (down, right) from the cell's middle the middle of that lies.
      spread: standard deviation of where it lies about its middle, along either side.
    """

    shift: tuple[float, float]
    spread: float


def measure_view(run: Run, network: str) -> list[View]:
    """Where the cells of each map look, measured.

    A cell of the last map is usually drawn where it lies in the map, as if its receptive field had
    its centre there. It does not in networks whose strided convolutions have odd kernels and the
    same padding on both sides (ResNet, Conformer): each takes up the upper left pixel of its four,
    which adds up to nearly half a cell. So soft spots at random places in the middle of a random
    film change the map; the centre of that (squared) change is compared with the place, on average
    over the spots, and its width with the spot's own.

    Returns:
      One view for each of `maps_of`; shifts of at most half a cell.
    """
    size = run.config.image_shape[0]
    rng = np.random.default_rng(0)
    rough = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 32, mode="nearest")
    film = 0.45 + 0.15 * rough / rough.std()
    places = size * (1 / 3 + rng.random((SPOTS, 2)) / 3)
    maps = jax.jit(lambda states, image: maps_of(run.predict(states, image), network))
    shape = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    cells = max(m.shape[1] for m in jax.eval_shape(maps, run.states, shape))
    middle, radius = np.arange(size) + 0.5, size / cells / 2
    down, right = (
        np.exp(-((middle - places[:, axis, None]) ** 2) / (2 * radius**2)) for axis in (0, 1)
    )
    films = film + 0.5 * np.concatenate([np.zeros((1, size, size)), down[:, :, None]
                                         * right[:, None, :]])
    found = maps(run.states, np.clip(films, 0.0, 1.0)[..., None].astype(np.float32))
    spot = radius / size / 2**0.5  # of the squared spot
    return [_view_of(np.asarray(m[1:] - m[:1]), places / size, spot) for m in found]


def _view_of(
    change: Float[np.ndarray, "n h w d"], places: Float[np.ndarray, "n 2"], spot: float
) -> View:
    power = (change**2).sum(-1)
    seen = power.sum((1, 2)) > 0
    if not seen.any():
        return View((0.0, 0.0), 0.0)
    shifts, variances = [], []
    for axis, cells in ((0, power.shape[1]), (1, power.shape[2])):
        centers = (np.arange(cells) + 0.5) / cells
        profile = power.sum(2 - axis)[seen]
        profile /= profile.sum(1, keepdims=True)
        middle = (profile * centers).sum(1)
        shift = float(np.mean(places[seen, axis] - middle))
        shifts.append(float(np.clip(shift, -0.5 / cells, 0.5 / cells)))
        variances.append(np.mean((profile * (centers - middle[:, None]) ** 2).sum(1)) - spot**2)
    return View((shifts[0], shifts[1]), float(max(np.mean(variances), 0.0) ** 0.5))


def explain(
    run: Run,
    compiled: Callable[[Any, Any], Mapping[str, jax.Array]],
    states: Any,
    films: Iterable[tuple[str, UInt8[np.ndarray, "s s 1"]]],
    size: int = BATCH,
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Explanation]:
    """Explains named films (as the network takes them) in order, `size` at a time.

    `probabilities` makes them of logits; None: the network's own. The next films are read while the
    device computes.

    Raises:
      UserError: CAM was asked of a network that has none.
    """
    own = probabilities or functools.partial(ranking.probabilities, task=run.meta["task"])
    at_work = None
    for batch, names in input_pipeline.batches(films, size):
        before, at_work = at_work, (compiled(states, batch["image"]), names)
        if before is not None:
            yield from _explain_batch(*before, own)
    if at_work is not None:
        yield from _explain_batch(*at_work, own)


def _explain_batch(computed, names, probabilities_of):
    out = {k: np.asarray(v)[: len(names)] for k, v in computed.items()}
    if "gap" in out and (out["gap"] > 1e-3 * (1 + np.abs(out["logits"]).max(1))).any():
        raise UserError(
            "this network has no CAM: its logits are not linear in its last map (ConvNeXt has a "
            "norm after the pooling, others a hidden layer); use --method=grad_cam"
        )
    probabilities = probabilities_of(out["logits"])
    for i, name in enumerate(names):
        mask = None
        if "mask_logits" in out:
            mask = 1 / (1 + np.exp(-out["mask_logits"][i].astype(np.float32)))
        yield Explanation(name, probabilities[i], out["heat"][i], mask)


def fresh_states(run: Run, seed: int) -> Any:
    """The run's networks with new random weights: what a heat map shows without any training.

    The control of Adebayo et al., NeurIPS 2018 (all layers randomised at once).
    """
    models = scheme_of(run.config).make_models(run.config)
    return steps.fresh_states(models, run.config, jax.random.key(seed))


def enlarge(heat: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "size size"]:
    """A map on `size` x `size` pixels, bilinear, pixel centres half a pixel in, edges held."""
    image = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def regions(
    heat: Float[np.ndarray, "h w"], threshold: int | float = 0.5
) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " 2"]]:
    """Boxes of a map, largest region first, and its highest point (x, y; NaN if it is flat).

    Both are fractions of the network's square. The map is enlarged first, so that neither jumps
    from cell to cell.
    """
    fine = enlarge(heat, FINE)
    return (
        cam.boxes(fine, threshold, size=(1, 1)),
        localization.peaks(fine[None], size=(1, 1))[0],
    )
