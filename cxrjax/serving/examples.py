"""Drawn films that the page shows to whoever has none at hand."""

from __future__ import annotations

from PIL import Image

from cxrjax.data.sets.phantom import dataset

# What stands on the button, the findings drawn, number of the film, whether with an artefact.
EXAMPLES = (("Drawn: mass", ("Mass",), 3, 0.0), ("Drawn: effusion", ("Effusion",), 8, 0.0),
            ("Drawn: artefact", ("Pneumothorax",), 14, 1.0))
SEED, SIZE = 1895, 512


def example(number: int) -> tuple[str, Image.Image]:
    """(file name, picture) of one of EXAMPLES."""
    words, findings, index, artefact = EXAMPLES[number]
    film = dataset.render(SEED, index, SIZE, findings=findings, artifacts=artefact)
    name = words.lower().replace(": ", "_").replace(" ", "_")
    return f"{name}.png", Image.fromarray(film["image"][..., 0])
