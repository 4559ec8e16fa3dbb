"""Hugging Face transformers: DINOv2 and RAD-DINO, ViT, ConvNeXt, ResNet.

In the older names (which published files have) attention is ".attention.attention.query", in the
newer ones ".attention.q_proj". A `preprocessor_config.json` beside the file says on which scale the
films were.
"""

from cxrjax.models.weights.layout import Layout

_TOKENS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layers?|layers?)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention(?:\.attention)?\.(?:query|q_proj)\.(\w+)$", r".attn.qkv.\1@0/3"),
    (r"\.attention(?:\.attention)?\.(?:key|k_proj)\.(\w+)$", r".attn.qkv.\1@1/3"),
    (r"\.attention(?:\.attention)?\.(?:value|v_proj)\.(\w+)$", r".attn.qkv.\1@2/3"),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^pooler\..*", ""),
)

LAYOUTS = (
    Layout("transformers", "dinov2", (
        *_TOKENS,
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    )),
    Layout("transformers", "vit", (
        *_TOKENS,
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    )),
    Layout("transformers", "convnext", (
        (r"^embeddings\.patch_embeddings\.", "features.0.0."),
        (r"^embeddings\.layernorm\.", "features.0.1."),
        (r"^encoder\.stages\.(\d)\.downsampling_layer\.",
         lambda m: f"features.{2 * int(m[1])}."),
        (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.",
         lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"\.dwconv\.", ".block.0."),
        (r"^(features\.[1357]\.\d+)\.layernorm\.", r"\1.block.2."),
        (r"\.pwconv1\.", ".block.3."),
        (r"\.pwconv2\.", ".block.5."),
        (r"\.layer_scale_parameter$", ".layer_scale"),
        (r"^classifier\.", "classifier.2."),
        (r"^layernorm\.", "classifier.0."),
    )),
    Layout("transformers", "resnet", (
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
        (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
        (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
        (r"^classifier\.1\.", "fc."),
    )),
)
