"""EVA-X in timm's names, fused and apart, and in those of EVA-02's code, in which it is published.

Files of the masked pre-training end in a norm over all tokens; as timm does, the head's norm starts
from it.
"""

from cxrjax.models.weights.layout import Layout

SCALE = (0.49185243, 0.28509309)

LAYOUTS = (
    Layout("EVA-X", "eva_x", (
        (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
        (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
        (r"\.attn\.q_proj\.weight$", ".attn.qkv.weight@0/3"),
        (r"\.attn\.k_proj\.weight$", ".attn.qkv.weight@1/3"),
        (r"\.attn\.v_proj\.weight$", ".attn.qkv.weight@2/3"),
        (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.(?:w1|fc1_g)\.(\w+)$", r".mlp.fc1.\1@0/2"),
        (r"\.mlp\.(?:w2|fc1_x)\.(\w+)$", r".mlp.fc1.\1@1/2"),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
        (r"^norm\.", "fc_norm."),
        (r"^lm_head\..*", ""),
    ), SCALE),
)
