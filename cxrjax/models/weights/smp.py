"""segmentation-models-pytorch: a torchvision encoder under "encoder.", a decoder that stays behind.

Its encoders out of timm ("tu-") lie one level deeper, under "encoder.model.".
"""

from cxrjax.models.weights.layout import IMAGENET, Layout, has_name

_MARK = has_name(r"(^|\.)segmentation_head\.")

LAYOUTS = (
    Layout("smp encoder", "resnet", (), IMAGENET, _MARK),
    Layout("smp encoder", "densenet", (), IMAGENET, _MARK),
)
