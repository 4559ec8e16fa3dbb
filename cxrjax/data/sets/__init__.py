"""Data sets by name, one file each: labels, preparation, splits and their traps.

`prepare(options)` reads the raw films once, `load(options)` opens them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "_by_name": ["account", "boxes", "head", "load", "main", "module", "names", "prepare"],
    "_origins": ["identities"],
    "_synonyms": ["match_labels"],
    "base": ["Account", "Films", "WrongFolder"],
})
