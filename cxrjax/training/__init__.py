"""From films and a config to checkpoints: losses, optimizers, steps, the loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "checkpoint", "experiment", "loop", "losses", "optim", "restored", "schemes", "steps",
])
