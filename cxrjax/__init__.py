"""cxrjax: train, judge and explain classifiers of chest radiographs in JAX and Flax."""

__version__ = "0.2.0"
