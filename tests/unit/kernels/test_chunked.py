"""The chunked output layer equals the dense one, whatever the chunk."""

from __future__ import annotations

import pytest
import torch

from distillation.kernels.chunked import OutputLayer, by_autograd, chunked_output_loss, chunks_at, even_chunks


def loss_pieces(labels: torch.Tensor):
    def loss_of_chunk(layers: tuple[torch.Tensor, ...], chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        logits = layers[0]
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

    dense, statistics = loss_pieces(labels)((torch.nn.functional.linear(hidden, weight, bias),), slice(0, 13))
    expected = torch.autograd.grad(3 * dense, leaves)
    loss, summed = chunked_output_loss(
        [OutputLayer(hidden, weight, bias)],
        by_autograd(loss_pieces(labels)),
        even_chunks(len(hidden), chunk_size),
    )
    found = torch.autograd.grad(3 * loss, leaves)

    torch.testing.assert_close(loss, dense)
    torch.testing.assert_close(summed, statistics)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_weights_the_hidden_states_are_the_logits() -> None:
    torch.manual_seed(1)
    logits = torch.randn(9, 12, requires_grad=True)
    labels = torch.randint(0, 12, (9,))
    dense, _ = loss_pieces(labels)((logits,), slice(0, 9))
    (expected,) = torch.autograd.grad(dense, logits)
    loss, _ = chunked_output_loss(
        [OutputLayer(logits, None, None)], by_autograd(loss_pieces(labels)), even_chunks(len(logits), 4)
    )
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("with_weight", [True, False])
def test_positions_that_are_not_used_have_no_gradient(with_weight: bool) -> None:
    torch.manual_seed(4)
    hidden = torch.randn(14, 6, requires_grad=True)
    weight = torch.randn(20, 6, requires_grad=True) if with_weight else None
    rows = torch.tensor([1, 2, 5, 6, 7, 11, 13])
    labels = torch.randint(0, 6, (len(rows),))
    logits = hidden[rows] if weight is None else hidden[rows] @ weight.T
    dense, _ = loss_pieces(labels)((logits,), slice(0, len(rows)))
    leaves = [hidden] if weight is None else [hidden, weight]
    expected = torch.autograd.grad(dense, leaves)

    layer = OutputLayer(hidden, weight, row_N=rows)
    loss, _ = chunked_output_loss([layer], by_autograd(loss_pieces(labels)), even_chunks(len(rows), 3))
    found = torch.autograd.grad(loss, leaves)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (found[0][[0, 3, 4, 8, 9, 10, 12]] == 0).all()


def test_no_position_costs_nothing_and_has_no_gradient() -> None:
    hidden = torch.zeros(0, 6, requires_grad=True)
    weight = torch.randn(20, 6, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    loss, _ = chunked_output_loss(
        [OutputLayer(hidden, weight, None)], by_autograd(loss_pieces(labels)), even_chunks(len(hidden), 4)
    )
    loss.backward()
    assert loss.item() == 0
    assert (weight.grad == 0).all()


def test_a_second_backward_pass_is_refused() -> None:
    hidden = torch.randn(5, 3, requires_grad=True)
    labels = torch.randint(0, 3, (5,))
    loss, _ = chunked_output_loss(
        [OutputLayer(hidden)], by_autograd(loss_pieces(labels)), even_chunks(len(hidden), 2)
    )
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, hidden)


def test_half_precision_keeps_reductions_in_float32() -> None:
    torch.manual_seed(2)
    hidden = torch.randn(64, 8)
    weight = torch.randn(30, 8)
    labels = torch.randint(0, 30, (64,))
    exact, _ = chunked_output_loss(
        [OutputLayer(hidden, weight, None)], by_autograd(loss_pieces(labels)), even_chunks(len(hidden), 16)
    )
    half = hidden.bfloat16().requires_grad_()
    loss, _ = chunked_output_loss(
        [OutputLayer(half, weight.requires_grad_())], by_autograd(loss_pieces(labels)), even_chunks(64, 16)
    )
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_two_layers_over_the_same_positions() -> None:
    torch.manual_seed(3)
    leaves = [torch.randn(9, 6), torch.randn(12, 6), torch.randn(9, 2), torch.randn(12, 2)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    hidden, weight, low, up = leaves

    def loss_of_chunk(layers: tuple[torch.Tensor, ...], chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        one, other = layers
        return (one.log_softmax(-1) * other.softmax(-1)).sum(), torch.zeros(1)

    dense, _ = loss_of_chunk((hidden @ weight.T, low @ up.T), slice(0, 9))
    expected = torch.autograd.grad(dense, leaves)
    layers = [OutputLayer(hidden, weight), OutputLayer(low, up)]
    loss, _ = chunked_output_loss(layers, by_autograd(loss_of_chunk), even_chunks(9, 4))
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_chunks_end_where_they_may() -> None:
    assert [(c.start, c.stop) for c in even_chunks(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert [(c.start, c.stop) for c in even_chunks(0, 3)] == [(0, 0)]
    chunks = chunks_at([1, 2, 4, 9, 10, 11], 3)
    assert [(c.start, c.stop) for c in chunks] == [(0, 2), (2, 4), (4, 9), (9, 11)]
    assert [(c.start, c.stop) for c in chunks_at([0], 3)] == [(0, 0)]
