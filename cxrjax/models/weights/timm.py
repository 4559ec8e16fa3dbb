"""timm: the reference of the transformers; ConvNeXt in its names and in its authors'.

DINO, MAE and DINOv2 publish in the same names as timm's ViTs. timm's ResNets and DenseNets have
torchvision's. A `config.json` beside the file says on which scale the films were.
"""

from cxrjax.models.weights.layout import IMAGENET, Layout

_CONVNEXT = (
    (r"\.conv_dw\.", ".block.0."),
    (r"\.mlp\.fc1\.", ".block.3."),
    (r"\.mlp\.fc2\.", ".block.5."),
)

LAYOUTS = (
    Layout("timm", "convnext", (
        (r"^stem\.([01])\.", r"features.0.\1."),
        (r"^stages\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
        (r"^stages\.(\d)\.blocks\.(\d+)\.",
         lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"^(features\.[1357]\.\d+)\.norm\.", r"\1.block.2."),
        (r"^(features\.[1357]\.\d+)\.gamma$", r"\1.layer_scale"),
        *_CONVNEXT,
        (r"^head\.norm\.", "classifier.0."),
        (r"^head\.fc\.", "classifier.2."),
    ), IMAGENET),
    Layout("ConvNeXt's authors'", "convnext", (
        (r"^downsample_layers\.(\d)\.", lambda m: f"features.{2 * int(m[1])}."),
        (r"^stages\.(\d)\.(\d+)\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"^(features\.[1357]\.\d+)\.norm\.", r"\1.block.2."),
        (r"^(features\.[1357]\.\d+)\.gamma$", r"\1.layer_scale"),
        (r"\.dwconv\.", ".block.0."),
        (r"\.pwconv1\.", ".block.3."),
        (r"\.pwconv2\.", ".block.5."),
        (r"^norm\.", "classifier.0."),
        (r"^head\.", "classifier.2."),
    ), IMAGENET),
    Layout("timm", "vit"),
    Layout("timm", "dinov2", (
        # Blocks in chunks, as DINOv2 trains them.
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^(register_tokens|storage_tokens)$", "reg_token"),
        (r"^linear_head\.", ""),
    ), IMAGENET),
)
