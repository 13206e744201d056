"""A loss over output layers whose logits never exist for all positions at once.

Legend, at the end of names: N used positions, n positions of a chunk, D width, V student vocabulary.

The forward pass takes a chunk of hidden states, forms its logits, its loss and at once the gradients with
respect to the hidden states and the output weights, and drops the logits. The backward pass only scales what
is there. Peak memory is one chunk of logits plus the gradient of the weights, and nothing is computed twice:
the same three matrix products as the dense version (as in Liger Kernel, arXiv 2410.10989, in plain PyTorch).

A loss may read several output layers over the same positions: the student's, and that of an aligner that is
trained beside it.

Invariant: value and gradients equal those of the dense loss.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ChunkLoss = Callable[[tuple[Tensor, ...], slice], tuple[Tensor, Tensor]]
"""(logits_nV float32 of each layer, which positions) -> (loss, summed over the chunk; any statistics)."""


@dataclass(frozen=True)
class OutputLayer:
    """What is turned into logits: hidden states and a linear layer, or logits themselves."""

    hidden_ND: Tensor
    """Hidden states of the used positions; logits (N, V) where `weight_VD` is None."""
    weight_VD: Tensor | None = None
    bias_V: Tensor | None = None

    def logits(self, chunk: slice) -> Tensor:
        """Return float32 logits (n, V); the product runs in the hidden states' number format."""
        return _output_layer(self.hidden_ND[chunk], self.weight_VD, self.bias_V)


def chunked_output_loss(
    layers: Sequence[OutputLayer], loss_of_chunk: ChunkLoss, chunks: Sequence[slice]
) -> tuple[Tensor, Tensor]:
    """Return (loss, statistics): `loss_of_chunk` summed over `chunks` of positions.

    Args:
        layers: output layers over the same N positions; gradients reach all of their tensors.
        loss_of_chunk: what to compute from a chunk's logits; it must not keep them.
        chunks: slices that cover the positions once; see `even_chunks`.
    """
    tensors = [tensor for layer in layers for tensor in (layer.hidden_ND, layer.weight_VD, layer.bias_V)]
    return _ChunkedOutputLoss.apply(loss_of_chunk, tuple(chunks), *tensors)  # type: ignore[no-any-return]


def even_chunks(num_positions: int, chunk_size: int) -> list[slice]:
    """Return slices of `chunk_size` positions; one, empty, where there is no position."""
    begins = range(0, max(num_positions, 1), chunk_size)
    return [slice(begin, min(begin + chunk_size, num_positions)) for begin in begins]


def chunks_at(ends: Sequence[int], chunk_size: int) -> list[slice]:
    """Return slices of at most `chunk_size` positions that end at some of `ends`, rising, the last one at N.

    A stretch between neighbouring ends that is longer than a chunk is a chunk of its own.
    """
    chunks: list[slice] = []
    begin = last = 0
    for end in ends:  # a loop over groups, without touching tensors
        if end - begin > chunk_size and last > begin:
            chunks.append(slice(begin, last))
            begin = last
        last = end
    return [*chunks, slice(begin, last)]


class _ChunkedOutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss_of_chunk: ChunkLoss, chunks: tuple[slice, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layers = [_LayerGradients(*three) for three in _triples(tensors, ctx.needs_input_grad[2:])]
        losses, statistics = [], []
        for chunk in chunks:
            with torch.enable_grad():
                leaves = tuple(layer.layer.logits(chunk).detach().requires_grad_() for layer in layers)
                loss, statistic = loss_of_chunk(leaves, chunk)
                wanted = [leaf for leaf, layer in zip(leaves, layers, strict=True) if layer.is_wanted]
                grads = iter(torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else ())
            losses.append(loss.detach())
            statistics.append(statistic.detach())
            for layer in layers:
                grad_nV = next(grads) if layer.is_wanted else None
                if grad_nV is not None:
                    layer.add(grad_nV, chunk)
        ctx.save_for_backward(*(grad for layer in layers for grad in layer.gradients))
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        return torch.stack(losses).sum(), torch.stack(statistics).sum(0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]  # the statistics are numbers to log and carry no gradient
        grads = [
            None if grad is None else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (None, None, *grads)


class _LayerGradients:
    """One output layer with the gradients that its chunks add up to."""

    def __init__(self, tensors: tuple[Tensor | None, ...], needs: tuple[bool, ...]) -> None:
        hidden_ND, weight_VD, bias_V = tensors
        assert hidden_ND is not None
        self.layer = OutputLayer(hidden_ND, weight_VD, bias_V)
        self.is_wanted = any(needs)
        self.hidden_ND = torch.zeros_like(hidden_ND) if needs[0] else None
        # The weights' gradient sums over many chunks: in float32 whatever the weights are.
        self.weight_VD = _zeros_float32(weight_VD) if needs[1] else None
        self.bias_V = _zeros_float32(bias_V) if needs[2] else None

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.hidden_ND, self.weight_VD, self.bias_V

    def add(self, grad_nV: Tensor, chunk: slice) -> None:
        """Carry the gradient of a chunk's logits over to what made them."""
        hidden_nD, weight_VD = self.layer.hidden_ND[chunk], self.layer.weight_VD
        if self.bias_V is not None:
            self.bias_V += grad_nV.sum(0)
        grad_nV = grad_nV.to(hidden_nD.dtype)
        with torch.autocast(hidden_nD.device.type, enabled=False):
            if self.hidden_ND is not None:
                self.hidden_ND[chunk] = (
                    grad_nV if weight_VD is None else grad_nV @ weight_VD.to(hidden_nD.dtype)
                )
            if self.weight_VD is not None:
                if self.weight_VD.dtype == hidden_nD.dtype:
                    torch.addmm(self.weight_VD, grad_nV.T, hidden_nD, out=self.weight_VD)
                else:
                    self.weight_VD += grad_nV.T @ hidden_nD


def _triples(
    tensors: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> Iterator[tuple[tuple[Tensor | None, ...], tuple[bool, ...]]]:
    for begin in range(0, len(tensors), 3):
        yield tensors[begin : begin + 3], needs[begin : begin + 3]


def _output_layer(hidden_nD: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None) -> Tensor:
    if weight_VD is None:
        return hidden_nD.float()
    with torch.autocast(hidden_nD.device.type, enabled=False):
        bias = None if bias_V is None else bias_V.to(hidden_nD.dtype)
        return torch.nn.functional.linear(hidden_nD, weight_VD.to(hidden_nD.dtype), bias).float()


def _zeros_float32(like: Tensor | None) -> Tensor | None:
    return None if like is None else torch.zeros_like(like, dtype=torch.float32)
