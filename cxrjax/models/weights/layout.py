"""A layout: what one library calls the tensors of a family, as rules into the reference names.

A rule is a regular expression and its replacement, applied in order to a name without its prefix.
The result is a name of the family's reference layout (`torch_layouts`), or, of a tensor that the
reference keeps as one of several joined along its first axis, that name with "@" and the place:
"attn.k_proj.weight" -> "attn.qkv.weight@1/3". What a rule turns into "" is no part of the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Rule = tuple[str, str | Callable[[re.Match], str]]

# The names that a family's reference layout has: to see of which family a foreign file is.
_WB, _BN = r"\.(weight|bias)", r"\.(weight|bias|running_mean|running_var)"
_VIT = (
    r"cls_token|pos_embed|(patch_embed\.proj|norm|fc_norm|head)" + _WB
    + r"|blocks\.\d+\.(norm[12]|attn\.proj|mlp\.fc[12])" + _WB + r"|blocks\.\d+\.attn\.qkv\.weight"
)
REFERENCE = {
    "resnet": r"conv1\.weight|bn1" + _BN + r"|layer\d\.\d+\.(conv[123]|downsample\.0)\.weight"
              r"|layer\d\.\d+\.(bn[123]|downsample\.1)" + _BN + r"|fc" + _WB,
    "densenet": r"features\.(conv0\.weight|norm[05]" + _BN + r"|transition\d\.(conv\.weight|norm"
                + _BN + r")|denseblock\d\.denselayer\d+\.(conv[12]\.weight|norm[12]" + _BN
                + r"))|classifier" + _WB,
    "convnext": r"features\.\d\.[01]" + _WB + r"|features\.\d\.\d+\.(layer_scale|block\.[0235]"
                + _WB + r")|classifier\.[02]" + _WB,
    "conformer": r"cls_token|conv_trans_\d+\..*|(conv_1|trans_1|trans_patch_conv|trans_norm|"
                 r"conv_cls_head|trans_cls_head)\..*|conv1\.weight|bn1" + _BN,
    "vit": _VIT + r"|blocks\.\d+\.attn\.qkv\.bias",
    "dinov2": _VIT + r"|blocks\.\d+\.(attn\.qkv\.bias|ls[12]\.gamma)|reg_token",
    "eva_x": _VIT + r"|blocks\.\d+\.attn\.[qv]_bias|blocks\.\d+\.(attn|mlp)\.norm" + _WB,
}
REFERENCE = {family: re.compile(f"({pattern})") for family, pattern in REFERENCE.items()}

# Inside names, from compilation and from wrappers of training: they say nothing.
_WRAPPED = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)


def has_name(pattern: str) -> Callable[[Mapping[str, Any]], bool]:
    """A mark: one of the names matches."""
    return lambda tensors: any(re.search(pattern, name) for name in tensors)


class Layout(NamedTuple):
    """One library's names for one family.

    Attributes:
      library: whose.
      family: see `torch_layouts.FAMILIES`.
      rules: from its names to the reference's.
      scale: (mean, std) of gray films in [0, 1] that its published weights were trained on, None
        where they differ.
      mark: whether a dict of tensors is this library's rather than that of another one with the
        same names.
      biases: (convolution, norm) patterns: a convolution's bias enters the norm behind it.
    """

    library: str
    family: str
    rules: tuple[Rule, ...] = ()
    scale: tuple[float, float] | None = None
    mark: Callable[[Mapping[str, Any]], bool] | None = None
    biases: tuple[str, str] = ("", "")

    def translate(self, name: str) -> str:
        """The reference's name for a name of the library's."""
        name = _WRAPPED.sub("", name)
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name


# Gray films on the scale of ImageNet's mean and standard deviation over colours.
IMAGENET = (0.449, 0.226)
