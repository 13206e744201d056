"""The chunked output layer equals the dense one, whatever the chunk."""

from __future__ import annotations

import pytest
import torch

from distillation.objectives.chunked import chunked_output_loss


def loss_pieces(labels: torch.Tensor):
    def loss_of_chunk(logits: torch.Tensor, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.nn.functional.cross_entropy(logits, labels[chunk], reduction="none")
        return (losses**2).sum(), torch.stack([losses.sum(), losses.new_tensor(float(len(losses)))])

    return loss_of_chunk


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_dense_loss(chunk_size: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(13, 6, requires_grad=True)
    weight = torch.randn(20, 6, requires_grad=True)
    bias = torch.randn(20, requires_grad=True) if with_bias else None
    labels = torch.randint(0, 20, (13,))
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]

    dense, statistics = loss_pieces(labels)(torch.nn.functional.linear(hidden, weight, bias), slice(0, 13))
    expected = torch.autograd.grad(3 * dense, leaves)
    loss, summed = chunked_output_loss(hidden, weight, bias, loss_pieces(labels), chunk_size)
    found = torch.autograd.grad(3 * loss, leaves)

    torch.testing.assert_close(loss, dense)
    torch.testing.assert_close(summed, statistics)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_weights_the_hidden_states_are_the_logits() -> None:
    torch.manual_seed(1)
    logits = torch.randn(9, 12, requires_grad=True)
    labels = torch.randint(0, 12, (9,))
    dense, _ = loss_pieces(labels)(logits, slice(0, 9))
    (expected,) = torch.autograd.grad(dense, logits)
    loss, _ = chunked_output_loss(logits, None, None, loss_pieces(labels), 4)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found, expected)


def test_no_position_costs_nothing_and_has_no_gradient() -> None:
    hidden = torch.zeros(0, 6, requires_grad=True)
    weight = torch.randn(20, 6, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    loss, _ = chunked_output_loss(hidden, weight, None, loss_pieces(labels), 4)
    loss.backward()
    assert loss.item() == 0
    assert (weight.grad == 0).all()


def test_half_precision_keeps_reductions_in_float32() -> None:
    torch.manual_seed(2)
    hidden = torch.randn(64, 8)
    weight = torch.randn(30, 8)
    labels = torch.randint(0, 30, (64,))
    exact, _ = chunked_output_loss(hidden, weight, None, loss_pieces(labels), 16)
    half = hidden.bfloat16().requires_grad_()
    loss, _ = chunked_output_loss(half, weight.requires_grad_(), None, loss_pieces(labels), 16)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
