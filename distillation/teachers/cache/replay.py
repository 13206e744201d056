"""Targets that were made before and kept as few entries a position.

Legend, at the end of names: B windows, T student positions, N used positions, n positions of a chunk, m of
them with a target, V student vocabulary, K entries of a position, K' those with the tail's.

Forward KL over a sample (`sparse`), or over the likeliest tokens and a sample of the others, needs
the columns of its entries alone: everywhere else the target is zero, and forward KL is zero there. So the
student's log-probabilities are gathered, m x K, and no dense target is ever made.

With the likeliest tokens alone, and for any other divergence, all others are one more outcome, of the
teacher's tail and of the student's:

    p' = (p_1 .. p_k, 1 - sum p),   q' = (q_1 .. q_k, 1 - sum q),   loss = D(p' || q')

for any divergence D. Forward KL over merged outcomes is at most that over all of them, and equal to it where
the student spreads its tail as the teacher does. The student is never taught to be too sure of the k tokens,
as it is where their probabilities are blown up to 1.

Invariant: equals the formula position by position; with k = V it is the dense divergence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distillation.aligners.targets import ChunkTargets, Columns

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.config import CacheSettings
    from distillation.kernels.batch import BatchView


class CachedTargets:
    """The targets of one batch, read from it; stands in for `targets.TargetSource`.

    Args:
        view: a batch of `teachers.cache.windows.CachedCollator`.
        aligner: that the targets were made with.
        settings: of the cache.
        is_forward_kl: whether the targets are for forward KL alone, which may use draws of the tail.
    """

    companion_layer = None

    def __init__(
        self, view: BatchView, aligner: Aligner, settings: CacheSettings, is_forward_kl: bool
    ) -> None:
        self.aligner = aligner
        uses_draws = settings.kind == "sampling" or (settings.num_tail_samples > 0 and is_forward_kl)
        self.has_tail = not uses_draws
        used_BT, batch = view.used_BT, view.batch
        most_entries = settings.most_entries if uses_draws else settings.k
        self.num_entries_N = batch["cached_num_entries"][used_BT].clamp_max(most_entries)
        self.id_NK = batch["cached_id"][used_BT][:, :most_entries]
        self.weight_NK = batch["cached_weight"][used_BT][:, :most_entries]
        self.tail_N = batch["cached_tail"][used_BT]
        self.residual_N = batch["cached_residual"][:, None].expand_as(used_BT)[used_BT]

    def of_chunk(self, chunk: slice) -> ChunkTargets:
        """Return the targets of the positions `chunk`; rows sum to 1."""
        index_m = (self.num_entries_N[chunk] > 0).nonzero().squeeze(1)
        chosen_m = index_m + chunk.start
        id_mK = self.id_NK[chosen_m].long()
        target_mK = self.weight_NK[chosen_m].float()
        slots_K = torch.arange(id_mK.shape[1], device=id_mK.device)
        is_entry_mK = slots_K < self.num_entries_N[chosen_m, None]
        if self.has_tail:
            target_mK = torch.cat([target_mK, self.tail_N[chosen_m, None].float()], dim=1)
        # Counts become shares; probabilities and tail lose what 16 bits had rounded.
        target_mK = target_mK / target_mK.sum(1, keepdim=True)
        nothing = torch.zeros((), device=id_mK.device)
        columns = Columns(id_mK, is_entry_mK, self.has_tail)
        return ChunkTargets(index_m, target_mK, self.residual_N[chosen_m], nothing, columns)
