"""The live teacher: rows read by tiles, single tokens and sets, against the model's own logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillation.config import ModelReference
from distillation.kernels import online_softmax as teacher_rows
from distillation.models.load import load_model
from distillation.teachers.live import LiveTeacher


@pytest.fixture
def teacher(tiny_teacher_dir: Path, monkeypatch) -> LiveTeacher:
    monkeypatch.setitem(teacher_rows.TILE_ELEMENTS, "cpu", 100 * 64)  # several tiles
    return LiveTeacher(load_model(ModelReference(path=str(tiny_teacher_dir)), "teacher", dtype="float32"))


def states_and_log_probs(teacher: LiveTeacher, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BS = torch.arange(24).view(2, 12)
    mask_BS = torch.ones_like(ids_BS)
    with torch.no_grad():
        logits_BSU = teacher.reader.model(input_ids=ids_BS, attention_mask=mask_BS).logits
    states_BSD = teacher.run(ids_BS, mask_BS).states_BSD
    return states_BSD.flatten(0, 1), (logits_BSU.flatten(0, 1) / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("head", ["plain", "with bias", "hooked", "not split"])
def test_rows_tokens_and_sets(teacher: LiveTeacher, temperature: float, head: str) -> None:
    reader = teacher.reader
    if head == "with bias":
        reader.head.bias = torch.nn.Parameter(torch.randn(reader.num_rows))
    elif head == "hooked":
        reader.head.register_forward_hook(lambda module, inputs, output: output + 1.0)
    elif head == "not split":
        reader.is_split = False
    assert (reader.plain_head is None) == (head in ("hooked", "not split"))
    states_RD, log_probs_RU = states_and_log_probs(teacher, temperature)
    rows = teacher.rows(states_RD, temperature)
    tiles = {columns.start: tile.clone() for columns, tile in rows.tiles()}
    assert len(tiles) > 1
    logits_RU = torch.cat(list(tiles.values())).T
    torch.testing.assert_close(logits_RU.log_softmax(-1), log_probs_RU, rtol=1e-4, atol=1e-4)
    index = torch.tensor([3, 3, 20])
    torch.testing.assert_close(rows.log_probs(index), log_probs_RU[index], rtol=1e-4, atol=1e-4)

    tokens = torch.arange(len(states_RD)) * 5 % rows.num_columns
    own = log_probs_RU.gather(1, tokens[:, None]).squeeze(1)
    found = teacher.token_log_probs(states_RD, tokens, temperature)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
    if temperature == 1.0:
        member_U = torch.arange(rows.num_columns) % 7 == 0
        both = teacher.token_and_set_log_probs(states_RD, tokens, member_U)
        expected = torch.stack([own, log_probs_RU[:, member_U].logsumexp(1)], 1)
        torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4)


def test_an_impossible_set_has_a_finite_logarithm(teacher: LiveTeacher) -> None:
    states_RD, _ = states_and_log_probs(teacher, 1.0)
    nothing_U = torch.zeros(teacher.num_rows, dtype=torch.bool)
    both = teacher.token_and_set_log_probs(states_RD, torch.zeros(len(states_RD)).long(), nothing_U)
    assert torch.isfinite(both).all()
    assert both[:, 1].max() < -80


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        ),
    ],
)
def test_started_teacher_says_the_same(tiny_teacher_dir: Path, device: str) -> None:
    reference = ModelReference(path=str(tiny_teacher_dir))
    teacher = LiveTeacher(load_model(reference, "teacher", device=device, dtype="float32"))
    ids_BS = torch.arange(24, device=device).view(2, 12)
    finish = teacher.start(ids_BS, torch.ones_like(ids_BS), True)
    busy = torch.randn(512, 512, device=device)
    for _ in range(20):
        busy = (busy @ busy).tanh()
    found, expected = finish(), teacher.run(ids_BS, torch.ones_like(ids_BS), True)
    torch.testing.assert_close(found.states_BSD, expected.states_BSD)
    torch.testing.assert_close(found.hidden_states, expected.hidden_states)
