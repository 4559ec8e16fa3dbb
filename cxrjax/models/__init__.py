"""Networks by name, a file per family: `create("densenet121", 14, dtype="bfloat16")`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"factory": ["create", "defaults_of", "factories", "options_of"]}
)
