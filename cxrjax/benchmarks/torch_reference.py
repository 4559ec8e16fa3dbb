"""The networks in PyTorch, for comparing speed (`--mode=benchmark --against=torch`).

Their parameters have the published names (torchvision's, and the Conformer reference's), so that
`weights.to_torch` fills them with `strict=True`; `benchmark.py` checks before it times anything
that both sides then give the same logits. Options are those of our factories, as far as they change
the network: widths, depths and the small stem. There is no dropout and no stochastic depth.

Every network gives a list of logits, one tensor per head; the prediction is their sum. This file
and `torch_side` import torch at their top; nothing imports them where torch is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrjax.errors import UserError
from cxrjax.names import suggest

# What changes the network; other options of our factories are about how it is computed.
OPTIONS = (
    "small_stem", "width", "depths", "depth", "growth", "embed_dim", "heads", "patch", "pool",
)


def _relu(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x, inplace=True)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, **options: Any) -> nn.Conv2d:
    options = {"padding": kernel // 2, "bias": False, **options}
    return nn.Conv2d(inputs, outputs, kernel, stride, **options)


def _stem(channels: int, width: int, small: bool) -> nn.Conv2d:
    return _conv(channels, width, 3 if small else 7, 1 if small else 2)


def _pool(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 2, 1)


class _Residual(nn.Module):
    """ResNet's block: two 3x3 convolutions, or the bottleneck with the stride in its 3x3."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            plan = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        self.count = len(plan)
        for i, shape in enumerate(plan, start=1):
            self.add_module(f"conv{i}", _conv(*shape))
            self.add_module(f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = _relu(y) if i < self.count else y
        return _relu(y + (x if self.downsample is None else self.downsample(x)))


class _ResNet(nn.Module):
    def __init__(self, classes, channels, bottleneck, depths, width=64, small_stem=False):
        super().__init__()
        self.small, self.stages = small_stem, len(depths)
        self.conv1, self.bn1 = _stem(channels, width, small_stem), nn.BatchNorm2d(width)
        inputs = width
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                blocks.append(_Residual(inputs, width * 2**i, stride, bottleneck))
                inputs = width * 2**i * (4 if bottleneck else 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = _relu(self.bn1(self.conv1(x)))
        x = x if self.small else _pool(x)
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return [self.fc(x.mean((2, 3)))]


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv(4 * growth, growth, 3)

    def forward(self, maps):
        x = self.conv1(_relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(_relu(self.norm2(x)))


class _DenseBlock(nn.Module):
    def __init__(self, inputs: int, depth: int, growth: int):
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", _DenseLayer(inputs + i * growth, growth))

    def forward(self, x):
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class _Transition(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), _conv(inputs, inputs // 2, 1)

    def forward(self, x):
        return F.avg_pool2d(self.conv(_relu(self.norm(x))), 2)


class _DenseNet(nn.Module):
    def __init__(self, classes, channels, depths, growth=32, width=64, small_stem=False):
        super().__init__()
        parts = {"conv0": _stem(channels, width, small_stem), "norm0": nn.BatchNorm2d(width),
                 "relu0": nn.ReLU(inplace=True)}
        if not small_stem:
            parts["pool0"] = nn.MaxPool2d(3, 2, 1)
        for i, depth in enumerate(depths, start=1):
            parts[f"denseblock{i}"] = _DenseBlock(width, depth, growth)
            width += depth * growth
            if i < len(depths):
                parts[f"transition{i}"] = _Transition(width)
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential()
        for name, part in parts.items():
            self.features.add_module(name, part)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        return [self.classifier(_relu(self.features(x)).mean((2, 3)))]


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((c, 1, 1), 1e-6))
        self.block = nn.Sequential(
            _conv(c, c, 7, groups=c, bias=True), _Permute(0, 2, 3, 1), nn.LayerNorm(c, 1e-6),
            nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c), _Permute(0, 3, 1, 2),
        )

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class _ConvNeXt(nn.Module):
    def __init__(self, classes, channels, depths, width=96, small_stem=False):
        super().__init__()
        plan = (3, 1, 1) if small_stem else (4, 4, 0)
        parts, c = [], width
        for i, depth in enumerate(depths):
            c = width * 2**i
            if i == 0:
                stem = _conv(channels, c, plan[0], plan[1], padding=plan[2], bias=True)
                parts.append(nn.Sequential(stem, _ChannelNorm(c, 1e-6)))
            else:
                halve = _conv(c // 2, c, 2, 2, padding=0, bias=True)
                parts.append(nn.Sequential(_ChannelNorm(c // 2, 1e-6), halve))
            parts.append(nn.Sequential(*(_ConvNeXtBlock(c) for _ in range(depth))))
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(
            _ChannelNorm(c, 1e-6), nn.Flatten(1), nn.Linear(c, classes)
        )

    def forward(self, x):
        return [self.classifier(self.features(x).mean((2, 3), keepdim=True))]


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, n, d))


class _Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class _TransBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, 1e-6), _Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, 1e-6), _Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _ConvBlock(nn.Module):
    """The Conformer's bottleneck; gives its 3x3 convolution's activation as well."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool):
        super().__init__()
        width = outputs // 4
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width, 1e-6)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width, 1e-6)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs, 1e-6)
        self.project = project
        if project:
            self.residual_conv = _conv(inputs, outputs, 1, stride)
            self.residual_bn = nn.BatchNorm2d(outputs, 1e-6)

    def forward(self, x, tokens=None):
        y = _relu(self.bn1(self.conv1(x)))
        y = y if tokens is None else y + tokens
        middle = _relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(middle))
        x = self.residual_bn(self.residual_conv(x)) if self.project else x
        return _relu(x + y), middle


class _Squeeze(nn.Module):
    """Map to tokens, in the published order: convolution, then pooling."""

    def __init__(self, inputs: int, dim: int, cell: int):
        super().__init__()
        self.cell, self.conv_project = cell, _conv(inputs, dim, 1, bias=True)
        self.ln = nn.LayerNorm(dim, 1e-6)

    def forward(self, x, cls):
        x = F.avg_pool2d(self.conv_project(x), self.cell).flatten(2).transpose(1, 2)
        return torch.cat([cls, F.gelu(self.ln(x))], 1)


class _Expand(nn.Module):
    """Tokens to map."""

    def __init__(self, dim: int, outputs: int, cell: int):
        super().__init__()
        self.cell, self.conv_project = cell, _conv(dim, outputs, 1, bias=True)
        self.bn = nn.BatchNorm2d(outputs, 1e-6)

    def forward(self, tokens, h, w):
        x = tokens[:, 1:].transpose(1, 2).reshape(tokens.shape[0], -1, h, w)
        return F.interpolate(_relu(self.bn(self.conv_project(x))), scale_factor=self.cell)


class _Coupled(nn.Module):
    def __init__(self, inputs, features, cell, dim, heads, starts, last):
        super().__init__()
        self.cell = cell
        self.cnn_block = _ConvBlock(inputs, features, 2 if starts else 1, starts)
        self.fusion_block = _ConvBlock(features, features, 2 if last else 1, last)
        self.squeeze_block = _Squeeze(features // 4, dim, cell)
        self.expand_block = _Expand(dim, features // 4, cell)
        self.trans_block = _TransBlock(dim, heads)

    def forward(self, x, tokens):
        x, middle = self.cnn_block(x)
        h, w = middle.shape[2] // self.cell, middle.shape[3] // self.cell
        tokens = self.trans_block(tokens + self.squeeze_block(middle, tokens[:, :1]))
        x, _ = self.fusion_block(x, self.expand_block(tokens, h, w))
        return x, tokens


class _Conformer(nn.Module):
    def __init__(
        self, classes, channels, ratio, width=64, depth=12, embed_dim=384, heads=6,
        small_stem=False,
    ):
        super().__init__()
        self.small, self.depth = small_stem, depth
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.conv1, self.bn1 = _stem(channels, width, small_stem), nn.BatchNorm2d(width)
        first = width * ratio
        self.conv_1 = _ConvBlock(width, first, 1, True)
        self.trans_patch_conv = _conv(width, embed_dim, 4, 4, padding=0, bias=True)
        self.trans_1 = _TransBlock(embed_dim, heads)
        inputs = first
        for i in range(2, depth + 1):
            stage, place = divmod(i - 1, depth // 3)
            self.add_module(f"conv_trans_{i}", _Coupled(
                inputs, first * 2**stage, 4 // 2**stage, embed_dim, heads,
                stage > 0 and place == 0, i == depth,
            ))
            inputs = first * 2**stage
        self.trans_norm = nn.LayerNorm(embed_dim)
        self.trans_cls_head = nn.Linear(embed_dim, classes)
        self.conv_cls_head = nn.Linear(inputs, classes)

    def forward(self, x):
        x = _relu(self.bn1(self.conv1(x)))
        x = x if self.small else _pool(x)
        tokens = self.trans_patch_conv(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], 1)
        x, _ = self.conv_1(x)
        tokens = self.trans_1(tokens)
        for i in range(2, self.depth + 1):
            x, tokens = getattr(self, f"conv_trans_{i}")(x, tokens)
        return [
            self.conv_cls_head(x.mean((2, 3))), self.trans_cls_head(self.trans_norm(tokens[:, 0]))
        ]


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, patch: int):
        super().__init__()
        self.proj = _conv(channels, dim, patch, patch, padding=0, bias=True)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class _ViT(nn.Module):
    """`pool`: 'cls' (class token, normed) or 'mean' (mean of the patches' tokens, then normed)."""

    def __init__(
        self, classes, channels, image_size, width=384, depth=12, heads=6, patch=16, pool="cls"
    ):
        super().__init__()
        self.mean = pool == "mean"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch) ** 2, width))
        self.patch_embed = _PatchEmbed(channels, width, patch)
        self.blocks = nn.Sequential(*(_TransBlock(width, heads) for _ in range(depth)))
        self.add_module("fc_norm" if self.mean else "norm", nn.LayerNorm(width, 1e-6))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], 1)
        tokens = self.blocks(tokens + self.pos_embed)
        if self.mean:
            return [self.head(self.fc_norm(tokens[:, 1:].mean(1)))]
        return [self.head(self.norm(tokens[:, 0]))]


NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "resnet18": (_ResNet, {"bottleneck": False, "depths": (2, 2, 2, 2)}),
    "resnet50": (_ResNet, {"bottleneck": True, "depths": (3, 4, 6, 3)}),
    "densenet121": (_DenseNet, {"depths": (6, 12, 24, 16)}),
    "densenet169": (_DenseNet, {"depths": (6, 12, 32, 32)}),
    "convnext_tiny": (_ConvNeXt, {"depths": (3, 3, 9, 3)}),
    "conformer_tiny": (_Conformer, {"ratio": 1}),
    "conformer_small": (_Conformer, {"ratio": 4}),
    "vit_small": (_ViT, {"width": 384, "heads": 6}),
    "vit_base": (_ViT, {"width": 768, "heads": 12}),
}


def create(
    name: str, num_classes: int, channels: int, size: int, **options: Any
) -> nn.Module:
    """The network `name` with the options of our factory; those that only steer ours are dropped.

    `module(image f32[b, channels, size, size])` gives a list of logits
    f32[b, num_classes].

    Raises:
      UserError: there is no such network here.
    """
    if name not in NETWORKS:
        raise UserError(f"no PyTorch network for {name!r}" + suggest(name, NETWORKS))
    make, defaults = NETWORKS[name]
    given = {key: value for key, value in options.items() if key in OPTIONS}
    if make is _ViT:
        given["image_size"] = size
    return make(num_classes, channels, **{**defaults, **given})
