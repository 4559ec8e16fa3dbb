"""torchvision: the reference of the convolutional networks; its ViT; and what wrapping made of it.

Sequences of a network's children ("0.weight", "4.0.conv1.weight") are what RadImageNet and many a
training script save; DenseNets lose their "features." in the same way.
"""

from cxrjax.models.weights.layout import IMAGENET, Layout

_OLD_DENSENET = (
    # Before 2018 a dense layer was a sequence with dots in its names.
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    # CheXNet's re-implementations put the linear layer into a Sequential with the sigmoid.
    (r"^classifier\.0\.", "classifier."),
)

LAYOUTS = (
    Layout("torchvision", "resnet", (), IMAGENET),
    Layout("children of torchvision's", "resnet", (
        (r"^0\.", "conv1."), (r"^1\.", "bn1."),
        (r"^([4-7])\.", lambda m: f"layer{int(m[1]) - 3}."), (r"^9\.", "fc."),
    )),
    Layout("torchvision", "densenet", _OLD_DENSENET, IMAGENET),
    Layout("torchvision's features", "densenet", (
        *_OLD_DENSENET, (r"^(?!classifier)", "features."),
    )),
    Layout("torchvision", "convnext", (), IMAGENET),
    Layout("Conformer", "conformer", (), IMAGENET),
    Layout("torchvision", "vit", (
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"^encoder\.ln\.", "norm."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
        (r"^heads?\.head\.", "head."),
        (r"^heads\.0\.", "head."),
    ), IMAGENET),
)
