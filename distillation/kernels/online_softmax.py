"""Rows of the teacher's logits, read a stretch of the vocabulary at a time.

Legend, at the end of names: R rows, U teacher vocabulary, u columns of a tile, k chosen rows.

All rows over the whole vocabulary are the largest tensor of distillation: 2,048 rows of 151,936 columns are
1.2 GB. An aligner that only adds columns up never needs it: it reads *tiles*, a few thousand columns of all
rows, and keeps a sum. A tile stays in a processor's cache between the product that makes it and what is done
with it, and its columns lie one after another, so that adding one to a target's column is adding two vectors.

Invariant: tiles cover every column once, in order; `log_probs` is the log-softmax of the same logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TILE_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits of a tile by kind of device: 4 MiB in float32 on a processor, whose cache holds them; 512 MiB on a
GPU, mostly all columns at once, and a bound however many rows are asked for."""
LEAST_COLUMNS = 64
MAX_RISE = 40.0
"""How far logits may lie above the reference before it is moved: exp(40) squared is still a float32."""


class TeacherRows(ABC):
    """Logits of R rows, already divided by the temperature."""

    num_rows: int
    """R."""
    num_columns: int
    """U."""

    @abstractmethod
    def tiles(self, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Yield (columns, logits float32 (u, R)), to be overwritten, and gone when the next tile is read.

        Args:
            width: columns of what is yielded, if more than R; zeros fill it up.
        """

    @abstractmethod
    def log_probs(self, index_k: Tensor) -> Tensor:
        """Return float32 log-probabilities (k, U) of some of the rows."""


class DenseRows(TeacherRows):
    """Rows whose logits exist already, (R, U); log-probabilities are logits too."""

    def __init__(self, logits_RU: Tensor, tile_size: int | None = None) -> None:
        self.logits_RU = logits_RU
        self.num_rows, self.num_columns = logits_RU.shape
        self.tile_size = min(tile_size or tile_columns(logits_RU, self.num_rows), self.num_columns)

    def tiles(self, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """See `TeacherRows.tiles`."""
        tile = Tile(self.logits_RU, self.tile_size, self.num_rows, width)
        for columns in column_slices(self.num_columns, self.tile_size):
            logits_uR, whole = tile.of(columns)
            logits_uR.copy_(self.logits_RU[:, columns].T)
            yield columns, whole

    def log_probs(self, index_k: Tensor) -> Tensor:
        """See `TeacherRows.log_probs`."""
        return self.logits_RU[index_k].float().log_softmax(-1)


class Workspace:
    """Memory that is used again: a fresh tensor of some size costs a processor as much as filling it."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def empty(self, num_rows: int, num_columns: int, device: torch.device) -> Tensor:
        """Return float32 (num_rows, num_columns), with anything in it; the one before is gone."""
        import torch

        size = num_rows * num_columns
        if self._buffer is None or self._buffer.numel() < size or self._buffer.device != device:
            self._buffer = None  # not both at a time
            self._buffer = torch.empty(size, device=device)
        return self._buffer[:size].view(num_rows, num_columns)


@dataclass(frozen=True)
class ChunkMemory:
    """What a chunk of positions is computed in, and the next chunk again."""

    targets: Workspace = field(default_factory=Workspace)
    logits: Workspace = field(default_factory=Workspace)
    """Of the teacher's rows that targets are made of, then of the student: never both at a time."""


class Tile:
    """The memory of a tile, with columns of zeros behind those of the R rows."""

    def __init__(self, like: Tensor, size: int, num_rows: int, width: int) -> None:
        import torch

        self.num_rows, self.width = num_rows, max(width, num_rows)
        self.buffer = torch.zeros(size * self.width, device=like.device)

    def of(self, columns: slice) -> tuple[Tensor, Tensor]:
        """Return the part for R rows, (u, R), and the whole, (u, width), for some columns."""
        size = columns.stop - columns.start
        whole = self.buffer[: size * self.width].view(size, self.width)
        return whole[:, : self.num_rows], whole


class OnlineSoftmax:
    """The softmax of rows that are read tile by tile: weights, and the sum that makes them probabilities.

    A weight is exp(logit - reference). The reference is the first tile's largest logit, and is moved where a
    later tile lies far above it; what was added up before is then too large by a factor.

    Args:
        careful: look for that. If not, `overflowed` says afterwards whether it should have been: it is nearly
            never needed and costs a pass over all logits.
    """

    def __init__(self, careful: bool = True) -> None:
        self.careful = careful
        self.reference_R: Tensor | None = None
        self.total_R: Tensor | None = None

    def weigh(self, logits_uR: Tensor) -> Tensor | None:
        """Turn a tile's logits into weights, in place, and add them to the total.

        Returns:
            By what every earlier weight must be multiplied, (R,); None where nothing changes.
        """
        import torch

        factor_R = None
        if self.reference_R is None or self.total_R is None:
            self.reference_R = _largest(logits_uR)
            self.total_R = torch.zeros_like(self.reference_R)
        elif self.careful and bool(((largest_R := _largest(logits_uR)) - self.reference_R > MAX_RISE).any()):
            moved_R = torch.maximum(self.reference_R, largest_R)
            factor_R = (self.reference_R - moved_R).exp()
            self.reference_R, self.total_R = moved_R, self.total_R * factor_R
        logits_uR.sub_(self.reference_R).exp_()
        self.total_R = self.total_R + logits_uR.sum(0)
        return factor_R

    @property
    def overflowed(self) -> bool:
        """Whether a sum is infinite."""
        return self.total_R is not None and bool(self.total_R.isinf().any())

    @property
    def log_total_R(self) -> Tensor:  # noqa: N802 - a tensor, named like one
        """log of the sum of exp(logit), float32 (R,)."""
        assert self.reference_R is not None
        assert self.total_R is not None
        return self.reference_R + self.total_R.log()


def _largest(logits_uR: Tensor) -> Tensor:
    import torch

    # Not minus infinity, else a row without any possible token would be NaN.
    return logits_uR.amax(0).clamp_min(torch.finfo(logits_uR.dtype).min)


def logits_at(columns: slice, logits_uR: Tensor, token_n: Tensor, row_n: Tensor, so_far_n: Tensor) -> Tensor:
    """Return `so_far_n` with the logit of each position's token, at its row, where it lies in this tile."""
    import torch

    place_n = token_n - columns.start
    is_here_n = (place_n >= 0) & (place_n < len(logits_uR))
    return torch.where(is_here_n, logits_uR[place_n.clamp(0, len(logits_uR) - 1), row_n], so_far_n)


def tile_columns(like: Tensor, num_rows: int) -> int:
    """Return how many columns of `num_rows` rows make a tile on the device of `like`."""
    return max(LEAST_COLUMNS, tile_elements(like.device.type) // max(num_rows, 1))


def tile_elements(device: str) -> int:
    """Return how many logits make a tile on a kind of device."""
    return TILE_ELEMENTS.get(device, TILE_ELEMENTS["cpu"])


def column_slices(num_columns: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` columns that cover all."""
    for begin in range(0, num_columns, size):
        yield slice(begin, min(begin + size, num_columns))
