"""cxrjax: train, judge and explain classifiers of chest radiographs in JAX and Flax.

    import cxrjax

    run = cxrjax.load("runs/phantom")
    run.predict("film.png")            # {label: probabilities}

The public names are imported when they are first used, so that `import cxrjax` costs nothing.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, _public = lazy_loader.attach(
    __name__,
    submodules=[
        "benchmarks", "data", "errors", "evaluation", "explanation", "metrics", "models", "names",
        "serving", "training",
    ],
    submod_attrs={
        "data": ["sets"],
        "data.sets": ["prepare"],
        "errors": ["UserError"],
        "evaluation.compare": ["compare"],
        "evaluation.evaluate": ["evaluate"],
        "explanation.explain": ["explain"],
        "serving.library": ["load", "predict"],
        "training": ["experiment", "losses", "schemes"],
        "training.loop": ["train"],
    },
)
__all__ = ["__version__", *_public]
