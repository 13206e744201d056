"""Rows of the teacher that are read tile by tile give what whole rows give."""

from __future__ import annotations

import pytest
import torch

from distillation.kernels.online_softmax import DenseRows, OnlineSoftmax, column_slices, logits_at


@pytest.fixture(params=["rising", "falling", "mixed"])
def logits(request) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    logits_RU = torch.randn(5, 60, generator=random)
    slope_U = {"rising": torch.arange(60), "falling": -torch.arange(60), "mixed": torch.zeros(60)}
    logits_RU += 10 * slope_U[request.param]
    logits_RU[3, 30:] += 500.0  # more than exp can hold over the first tile's reference
    logits_RU[4, :30] = -torch.inf
    return logits_RU


@pytest.mark.parametrize("tile_size", [1, 7, 60, 100])
def test_online_softmax_equals_the_whole(logits: torch.Tensor, tile_size: int) -> None:
    softmax, weights_UR = OnlineSoftmax(), torch.zeros(60, 5)
    for columns, logits_uR in DenseRows(logits, tile_size).tiles():
        factor_R = softmax.weigh(logits_uR)
        if factor_R is not None:
            weights_UR *= factor_R
        weights_UR[columns] = logits_uR
    torch.testing.assert_close(softmax.log_total_R, logits.logsumexp(1))
    torch.testing.assert_close((weights_UR / softmax.total_R).T, logits.softmax(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tile_size", [1, 7, 60])
def test_the_logit_of_a_token_is_found_in_its_tile(logits: torch.Tensor, tile_size: int) -> None:
    token_n, row_n = torch.tensor([0, 59, 30, 6, 7, 30]), torch.tensor([0, 1, 2, 3, 4, 0])
    found_n = torch.zeros(6)
    for columns, logits_uR in DenseRows(logits, tile_size).tiles():
        found_n = logits_at(columns, logits_uR, token_n, row_n, found_n)
    assert torch.equal(found_n, logits[row_n, token_n])


def test_tiles_cover_every_column_once() -> None:
    for size in (1, 4, 10, 11):
        assert [i for columns in column_slices(10, size) for i in range(10)[columns]] == list(range(10))
