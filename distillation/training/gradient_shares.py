"""Which share of the gradient each term of an objective has: the guard against a term that drowns the others.

Losses of different kinds have different scales, and their values say nothing of it: a distillation term
that is a hundredth of cross-entropy in its gradient is a weight nobody chose. So each weighted term's
gradient with respect to the student's parameters is formed by itself, on a few windows of the batch, and

    share of a term = norm of its gradient / sum of the norms of all.

The training step is left as it is: nothing is accumulated and no state is touched.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distillation.training.checkpoints import COMPANIONS

logger = logging.getLogger(__name__)
NUM_WINDOWS = 2
"""Windows of the batch that are measured: enough for a share, and cheap beside a step."""
LEAST_SHARE = 0.01
"""A term below this share is as good as left out, which deserves a warning."""


def gradient_shares(
    student: nn.Module, batch: Mapping[str, Tensor], terms: Sequence[str]
) -> dict[str, float]:
    """Return the share of each of `terms` in the gradient of the student's parameters; they add up to 1.

    Of gradients that are not finite there is none.

    Args:
        student: with the forward pass of `training.trainer.distilling`.
        batch: of the collator; its first windows are used.
        terms: names of the objective's active terms.
    """
    few = {name: tensor[:NUM_WINDOWS] for name, tensor in batch.items() if tensor.ndim}
    parameters = [
        parameter
        for name, parameter in student.named_parameters()
        if parameter.requires_grad and not name.startswith(f"{COMPANIONS}.")
    ]
    norms = {}
    for term in terms:
        loss = student(**few, only=term)["loss"]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        squares = [grad.float().square().sum() for grad in grads if grad is not None]
        norms[term] = float(torch.stack(squares).sum().sqrt())
    total = sum(norms.values())
    if not math.isfinite(total):
        return {}
    shares = {term: norm / total if total > 0 else 0.0 for term, norm in norms.items()}
    for term, share in shares.items():
        if share < LEAST_SHARE:
            logger.warning(
                "objective.terms.%s has %.2g %% of the gradient: raise its weight or leave it out",
                term,
                100 * share,
            )
    return shares
