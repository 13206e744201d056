"""A loss over output layers whose logits never exist for all positions at once.

Legend, at the end of names: M positions of a batch, N used ones, n positions of a chunk, D width, V student
vocabulary.

The forward pass takes the hidden states of a chunk of used positions, forms its logits, its loss and at once
the gradients with respect to the hidden states and the output weights, and drops the logits. The backward
pass only scales what is there. Peak memory is one chunk of logits plus the gradients, and nothing is computed
twice: the same three matrix products as the dense version (as in Liger Kernel, arXiv 2410.10989, in plain
PyTorch).

A loss may read several output layers over the same positions: the student's, and that of an aligner that is
trained beside it.

Invariant: value and gradients equal those of the dense loss.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distillation.kernels.online_softmax import Workspace

ChunkLoss = Callable[[tuple[Tensor, ...], slice], tuple[Tensor, Tensor]]
"""(logits_nV float32 of each layer, which positions) -> (loss, summed over the chunk; any statistics)."""
LEAST_LOGIT = -1e4
"""Logit or log-probability of what does not exist, finite for the gradient's sake."""


@dataclass(frozen=True)
class OutputLayer:
    """What is turned into logits: hidden states and a linear layer, or logits themselves."""

    hidden_MD: Tensor
    """Hidden states; logits (M, V) where `weight_VD` is None."""
    weight_VD: Tensor | None = None
    bias_V: Tensor | None = None
    row_N: Tensor | None = None
    """Where the used positions are in `hidden_MD`, each at most once; None where all are used, in order."""

    def in_compute_format(self) -> OutputLayer:
        """Return the layer with its weights in the format of the products: autocast's, or the states'."""
        if self.weight_VD is None:
            return self
        kind = self.hidden_MD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.hidden_MD.dtype
        bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
        return OutputLayer(self.hidden_MD, self.weight_VD.to(dtype), bias_V, self.row_N)

    def rows(self, positions: slice | Tensor) -> slice | Tensor:
        """Return where used positions are in `hidden_MD`."""
        return positions if self.row_N is None else self.row_N[positions]

    def hidden(self, positions: slice | Tensor) -> Tensor:
        """Return the hidden states (n, D) of used positions in the weights' format."""
        hidden_nD = self.hidden_MD[self.rows(positions)]
        return hidden_nD if self.weight_VD is None else hidden_nD.to(self.weight_VD.dtype)

    def logits(self, chunk: slice) -> Tensor:
        """Return float32 logits (n, V)."""
        if self.weight_VD is None:
            return self.hidden(chunk).float()
        return torch.nn.functional.linear(self.hidden(chunk), self.weight_VD, self.bias_V).float()

    @torch.no_grad()
    def logits_by_row(self, positions: slice | Tensor, workspace: Workspace) -> Tensor:
        """Return float32 logits (V, n), without a graph, in the workspace and to be overwritten."""
        hidden_nD = self.hidden(positions)
        num_rows = hidden_nD.shape[1] if self.weight_VD is None else len(self.weight_VD)
        logits_Vn = workspace.empty(num_rows, len(hidden_nD), hidden_nD.device)
        if self.weight_VD is None:
            # Some models exclude a column by minus infinity, which times a probability of 0 is no number.
            return logits_Vn.copy_(hidden_nD.T).clamp_min_(LEAST_LOGIT)
        if hidden_nD.dtype == torch.float32:
            torch.mm(self.weight_VD, hidden_nD.T, out=logits_Vn)
        else:
            logits_Vn.copy_(self.weight_VD @ hidden_nD.T)
        return logits_Vn if self.bias_V is None else logits_Vn.add_(self.bias_V[:, None])


class ChunkGradients(NamedTuple):
    """What is kept of a chunk."""

    loss: Tensor
    """Summed over the chunk's positions."""
    statistics: Tensor
    """Numbers to log, summed over the chunks."""
    by_layer: Sequence[Tensor | None]
    """Gradient by each layer's logits, (n, V); None where there is none."""
    positions: slice | Tensor
    """Whose they are, in this order."""


GradientsOfChunk = Callable[[Sequence[OutputLayer], slice], ChunkGradients]
"""(all output layers, which positions) -> loss and gradients."""


def chunked_output_loss(
    layers: Sequence[OutputLayer], gradients_of_chunk: GradientsOfChunk, chunks: Sequence[slice]
) -> tuple[Tensor, Tensor]:
    """Return (loss, statistics), summed over `chunks` of positions.

    Args:
        layers: output layers over the same N used positions; gradients reach all of their tensors.
        gradients_of_chunk: what to compute of a chunk; `by_autograd` makes it of a loss.
        chunks: slices that cover the positions once; see `even_chunks`.
    """
    tensors = [tensor for layer in layers for tensor in (layer.hidden_MD, layer.weight_VD, layer.bias_V)]
    rows = tuple(layer.row_N for layer in layers)
    return _ChunkedOutputLoss.apply(gradients_of_chunk, tuple(chunks), rows, *tensors)  # type: ignore[no-any-return]


def by_autograd(loss_of_chunk: ChunkLoss) -> GradientsOfChunk:
    """Return how to get the gradients of a loss that is written as tensor operations and keeps no logits."""

    def gradients(layers: Sequence[OutputLayer], chunk: slice) -> ChunkGradients:
        with torch.enable_grad():
            leaves = tuple(layer.logits(chunk).detach().requires_grad_() for layer in layers)
            loss, statistics = loss_of_chunk(leaves, chunk)
            by_layer = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
        return ChunkGradients(loss.detach(), statistics.detach(), by_layer or [None] * len(leaves), chunk)

    return gradients


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
        ctx: Any,
        gradients_of_chunk: GradientsOfChunk,
        chunks: tuple[slice, ...],
        rows: tuple[Tensor | None, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        # Products are in the formats chosen here; autocast would turn sums in float32 back.
        needs = ctx.needs_input_grad[3:]
        threes = [slice(begin, begin + 3) for begin in range(0, len(tensors), 3)]
        sums = [
            _LayerGradients(tensors[three], row_N, needs[three])
            for three, row_N in zip(threes, rows, strict=True)
        ]
        layers = [one.layer for one in sums]
        losses, statistics = [], []
        with torch.autocast(layers[0].hidden_MD.device.type, enabled=False):
            for chunk in chunks:
                found = gradients_of_chunk(layers, chunk)
                losses.append(found.loss)
                statistics.append(found.statistics)
                for one, gradient_nV in zip(sums, found.by_layer, strict=True):
                    if gradient_nV is not None:
                        one.add(gradient_nV, found.positions)
                del found, gradient_nV  # else the next chunk's logits would lie beside this one's gradient
        ctx.save_for_backward(*(gradient for one in sums for gradient in one.gradients))
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        return torch.stack(losses).sum(), torch.stack(statistics).sum(0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]  # the statistics are numbers to log and carry no gradient
        # In place, for want of a second copy; autograd itself refuses a second pass over changed tensors.
        grads = [
            None if grad is None else grad.mul_(scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (None, None, None, *grads)


class _LayerGradients:
    """One output layer with the gradients that its chunks add up to."""

    def __init__(
        self, tensors: tuple[Tensor | None, ...], row_N: Tensor | None, needs: tuple[bool, ...]
    ) -> None:
        hidden_MD, weight_VD, bias_V = tensors
        assert hidden_MD is not None
        self.layer = OutputLayer(hidden_MD, weight_VD, bias_V, row_N).in_compute_format()
        self.hidden_MD = torch.zeros_like(hidden_MD) if needs[0] else None
        # The weights' gradient sums over many chunks: in float32 whatever the weights are.
        self.weight_VD = _zeros_float32(weight_VD) if needs[1] else None
        self.bias_V = _zeros_float32(bias_V) if needs[2] else None

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.hidden_MD, self.weight_VD, self.bias_V

    def add(self, grad_nV: Tensor, positions: slice | Tensor) -> None:
        """Carry the gradient of a chunk's logits over to what made them."""
        hidden_nD, weight_VD = self.layer.hidden(positions), self.layer.weight_VD
        if self.bias_V is not None:
            self.bias_V += grad_nV.sum(0)
        grad_nV = grad_nV.to(hidden_nD.dtype)
        if self.hidden_MD is not None:
            grad_nD = grad_nV if weight_VD is None else grad_nV @ weight_VD
            # Autocast's products are in a format of their own.
            self.hidden_MD[self.layer.rows(positions)] = grad_nD.to(self.hidden_MD.dtype)
        if self.weight_VD is not None:
            if self.weight_VD.dtype == hidden_nD.dtype:
                torch.addmm(self.weight_VD, grad_nV.T, hidden_nD, out=self.weight_VD)
            else:
                self.weight_VD += grad_nV.T @ hidden_nD


def _zeros_float32(like: Tensor | None) -> Tensor | None:
    return None if like is None else torch.zeros_like(like, dtype=torch.float32)
