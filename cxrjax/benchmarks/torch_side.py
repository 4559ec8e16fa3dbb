"""Training and inference in PyTorch, for comparing speed (`--mode=benchmark --against=torch`).

Imported, as `torch_reference` is, only where torch is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

UNDECAYED = ("layer_scale", "cls_token", "pos_embed")


def optimizer_of(network: nn.Module, options: Any) -> torch.optim.Optimizer:
    """AdamW, fused (its fastest form), by our options; what decays is what `optim.decay_mask` says.

    Arrays of one axis do not decay (torch's layer scale has three), nor do tokens and position
    embeddings.
    """
    groups: dict[bool, list] = {True: [], False: []}
    for name, p in network.named_parameters():
        groups[p.ndim > 1 and not name.endswith(UNDECAYED)].append(p)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": options["weight_decay"]},
         {"params": groups[False], "weight_decay": 0.0}],
        lr=options["learning_rate"], betas=(options["b1"], options["b2"]), fused=True,
    )


class Side:
    """Training and inference of one network in PyTorch, the equivalent of ours, on a given batch.

    Forward, mean loss of the heads, backward, clipping of the whole gradient, AdamW with the same
    hyperparameters and the same arrays decayed.

    Args:
      network: from `create`, with its weights; becomes this side's own.
      image: u8[b, h, w, 1]; label: f32[b, k].
      task: 'multilabel' (binary cross-entropy) or 'multiclass'.
      normalize: (mean, std).
      optimizer: our options.
      bfloat16: compute under autocast.
      channels_last, compiled: the memory format, and torch.compile on the network.
    """

    def __init__(
        self, network: nn.Module, image: Any, label: Any, task: str, normalize: Any,
        optimizer: Any, bfloat16: bool, channels_last: bool, compiled: bool,
    ):
        gpu = torch.cuda.is_available()
        if gpu:  # as XLA does: the fastest algorithms, TensorFloat-32 where float32 is asked for
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        self._device = torch.device("cuda" if gpu else "cpu")
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._network = network.to(self._device, memory_format=layout)
        self._image = torch.from_numpy(image).permute(0, 3, 1, 2).to(self._device)
        self._image = self._image.contiguous(memory_format=layout)
        self._label = torch.from_numpy(label).to(self._device)
        self._loss = F.binary_cross_entropy_with_logits
        if task == "multiclass":
            self._loss = F.cross_entropy
        self._mean, self._std = normalize
        self._clip, self._bfloat16 = optimizer["clip_norm"], bfloat16
        self._optimizer = optimizer_of(self._network, optimizer)
        self._forward = torch.compile(self._network) if compiled else self._network

    def _heads(self) -> list[torch.Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            image = (self._image.float() / 255.0 - self._mean) / self._std
            return [head.float() for head in self._forward(image)]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def train(self, count: int) -> tuple[float, float]:
        """`count` training steps; the last one's loss and gradient norm before clipping."""
        self._network.train()
        for _ in range(count):
            self._optimizer.zero_grad(set_to_none=True)
            losses = [self._loss(head, self._label) for head in self._heads()]
            loss = sum(losses) / len(losses)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                self._network.parameters(), self._clip or float("inf")
            )
            self._optimizer.step()
        self._wait()
        return float(loss.detach()), float(norm)

    def infer(self, count: int) -> None:
        """`count` times the logits of the batch in evaluation mode."""
        self._network.eval()
        with torch.inference_mode():
            for _ in range(count):
                heads = self._heads()
                sum(heads) / len(heads)
        self._wait()

    def peak_memory(self) -> int | None:
        """Bytes allocated at most since the process began; None on the CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None
