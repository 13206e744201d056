"""A loss over an output layer whose logits never exist for all positions at once.

Legend, at the end of names: N used positions, n positions of a chunk, D width, V student vocabulary.

The forward pass takes a chunk of hidden states, forms its logits, its loss and at once the gradients with
respect to the hidden states and the output weights, and drops the logits. The backward pass only scales what
is there. Peak memory is one chunk of logits plus the gradient of the weights, and nothing is computed twice:
the same three matrix products as the dense version (as in Liger Kernel, arXiv 2410.10989, in plain PyTorch).

Invariant: value and gradients equal those of the dense loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(logits_nV float32, which positions) -> (loss, summed over the chunk; any statistics, summed likewise)."""


def chunked_output_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor | None,
    bias_V: Tensor | None,
    loss_of_chunk: ChunkLoss,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Return (loss, statistics): `loss_of_chunk` summed over chunks of positions.

    Args:
        hidden_ND: hidden states of the used positions, or their logits where `weight_VD` is None.
        weight_VD: weights of the output layer.
        bias_V: its bias, if it has one.
        loss_of_chunk: what to compute from a chunk's logits; it must not keep them.
        chunk_size: positions whose logits exist at a time.
    """
    return _ChunkedOutputLoss.apply(hidden_ND, weight_VD, bias_V, loss_of_chunk, chunk_size)  # type: ignore[no-any-return]


class _ChunkedOutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor | None,
        bias_V: Tensor | None,
        loss_of_chunk: ChunkLoss,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden_ND = torch.zeros_like(hidden_ND) if needs_hidden else None
        # The weights' gradient sums over many chunks: in float32 whatever the weights are.
        grad_weight_VD = _zeros_float32(weight_VD) if needs_weight else None
        grad_bias_V = _zeros_float32(bias_V) if needs_bias else None
        losses, statistics = [], []
        for begin in range(0, max(len(hidden_ND), 1), chunk_size):
            chunk = slice(begin, min(begin + chunk_size, len(hidden_ND)))
            hidden_nD = hidden_ND[chunk]
            logits_nV = _output_layer(hidden_nD, weight_VD, bias_V)
            with torch.enable_grad():
                leaf_nV = logits_nV.detach().requires_grad_()
                loss, statistic = loss_of_chunk(leaf_nV, chunk)
                wanted = needs_hidden or needs_weight or needs_bias
                grad_nV = torch.autograd.grad(loss, leaf_nV)[0] if wanted else None
            losses.append(loss.detach())
            statistics.append(statistic.detach())
            if grad_nV is None:
                continue
            grad_nV = grad_nV.to(hidden_nD.dtype)
            with torch.autocast(hidden_nD.device.type, enabled=False):
                if grad_hidden_ND is not None:
                    grad_hidden_ND[chunk] = (
                        grad_nV if weight_VD is None else grad_nV @ weight_VD.to(hidden_nD.dtype)
                    )
                if grad_weight_VD is not None:
                    if grad_weight_VD.dtype == hidden_nD.dtype:
                        torch.addmm(grad_weight_VD, grad_nV.T, hidden_nD, out=grad_weight_VD)
                    else:
                        grad_weight_VD += grad_nV.T @ hidden_nD
            if grad_bias_V is not None:
                grad_bias_V += grad_nV.sum(0)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD, grad_bias_V)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden_ND, weight_VD, bias_V)]
        return torch.stack(losses).sum(), torch.stack(statistics).sum(0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]  # the statistics are numbers to log and carry no gradient
        grads = [
            None if grad is None else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None)


def _output_layer(hidden_nD: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None) -> Tensor:
    """Return float32 logits; the product runs in the hidden states' number format."""
    if weight_VD is None:
        return hidden_nD.float()
    with torch.autocast(hidden_nD.device.type, enabled=False):
        bias = None if bias_V is None else bias_V.to(hidden_nD.dtype)
        return torch.nn.functional.linear(hidden_nD, weight_VD.to(hidden_nD.dtype), bias).float()


def _zeros_float32(like: Tensor | None) -> Tensor | None:
    return None if like is None else torch.zeros_like(like, dtype=torch.float32)
