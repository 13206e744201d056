"""The objective against a dense, obvious reference; the oracle of equal tokenizers; masks and normalisers."""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
from objective_reference import TEXTS, make_batch

from distillation.aligners.base import Rows
from distillation.config import TEXT_ALONE, ObjectiveSettings, TermWeights
from distillation.corpus.windows import WindowCollator
from distillation.losses.objective import DistillationObjective
from distillation.teachers.live import LiveTeacher
from distillation.tokenizers.pairs import PairEncoder
from distillation.training.trainer import distilling


def weighted(weight: float, name: str = "forward_kl") -> TermWeights:
    return TermWeights(cross_entropy=1 - weight, **{name: weight})


def run(models, student, aligner, batch, **settings):
    objective = DistillationObjective(ObjectiveSettings(**settings), aligner, LiveTeacher(models["teacher"]))
    student.zero_grad()
    with distilling(student, objective):
        outputs = student(**batch)
        outputs["loss"].backward()
    grads = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    return (
        outputs["loss"].item(),
        grads,
        dict(zip(objective.statistic_names, outputs["statistics"].tolist(), strict=True)),
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("strategy", ["prefix", "shared"])
def test_equal_tokenizers_are_plain_distillation(models, strategy: str, temperature: float) -> None:
    """Design section 4: with one tokenizer on both sides nothing may remain but KL, value and gradient."""
    student, aligner, batch = make_batch(models, strategy, same=True)
    weight = 0.7
    loss, grads, _ = run(
        models, student, aligner, batch, terms=weighted(weight), temperature=temperature, chunk_size=5
    )

    student.zero_grad()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    used = batch["shift_labels"] != -100
    logits = student(**inputs).logits[used]
    with torch.no_grad():
        teacher = models["teacher"](**inputs).logits[used]
    labels = batch["shift_labels"][used]
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
    kl = torch.nn.functional.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher / temperature).log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    plain = (1 - weight) * cross_entropy + weight * temperature**2 * kl
    plain.backward()
    assert loss == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=1e-6, rtol=1e-4)


def reference_loss(models, student, aligner, batch, settings: ObjectiveSettings) -> torch.Tensor:
    """One window and one position at a time, with dense logits: slow and obvious."""
    logits_BTV = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    with torch.no_grad():
        teacher_BSU = models["teacher"](
            input_ids=batch["teacher_input_ids"], attention_mask=batch["teacher_attention_mask"]
        ).logits
    total, count = torch.zeros(()), 0
    for b, labels in enumerate(batch["shift_labels"].tolist()):
        for j, label in enumerate(labels):
            if label == -100:
                continue
            count += 1
            cross_entropy = -logits_BTV[b, j].log_softmax(-1)[label]
            i = int(batch["teacher_position"][b, j])
            if i < 0:
                total = total + cross_entropy
                continue
            log_probs_SU = (teacher_BSU[b] / settings.temperature).log_softmax(-1)
            tokens = batch["teacher_labels"][b]
            num_tail = int(batch["num_tail"][b, j])
            tail = sum(log_probs_SU[i + n, tokens[i + n]].item() for n in range(1, num_tail + 1))
            rows = Rows(
                teacher_token_N=tokens[i : i + 1],
                student_token_N=torch.tensor([label]),
                num_emitted_N=batch["num_emitted"][b, j : j + 1],
                num_tail_N=torch.tensor([num_tail]),
                tail_log_prob_N=torch.tensor([float(tail)]),
            )
            targets = aligner.targets(log_probs_SU[i : i + 1], rows)
            if not targets.usable_N.item():
                total = total + cross_entropy
                continue
            student_logits = logits_BTV[b, j] / settings.temperature
            if aligner.student_support_V is not None:
                student_logits = student_logits.masked_fill(~aligner.student_support_V, -1e30)
            target = targets.probabilities_NV[0]
            kl = (target * (target.clamp_min(1e-30).log() - student_logits.log_softmax(-1))).sum()
            weight = settings.terms.forward_kl
            total = total + (1 - weight) * cross_entropy + weight * settings.temperature**2 * kl
    return total / count


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("strategy", ["prefix", "shared", "truncate"])
def test_equals_the_slow_reference(models, strategy: str, temperature: float) -> None:
    student, aligner, batch = make_batch(models, strategy, same=False)
    settings = ObjectiveSettings(terms=weighted(0.6), temperature=temperature, chunk_size=7)
    loss, grads, statistics = run(
        models, student, aligner, batch, terms=settings.terms, temperature=temperature, chunk_size=7
    )
    assert statistics["num_targets"] > 0
    student.zero_grad()
    expected = reference_loss(models, student, aligner, batch, settings)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=2e-6)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=2e-6, rtol=1e-3)


def test_tails_occur_in_these_texts(models) -> None:
    """Guards the test above: without overruns and inner positions it would prove little."""
    _, _, batch = make_batch(models, "prefix", same=False)
    assert (batch["num_tail"] > 0).any()
    assert (batch["num_emitted"] > 0).any()


def test_an_off_by_one_is_seen(models) -> None:
    """The commonest fault of such trainers, planted: rows shifted by one give another loss."""
    student, aligner, batch = make_batch(models, "shared", same=True)
    loss, _, _ = run(models, student, aligner, batch, terms=weighted(1.0))
    shifted = dict(batch)
    position = batch["teacher_position"]
    shifted["teacher_position"] = torch.where(position > 0, position - 1, position)
    wrong, _, _ = run(models, student, aligner, shifted, terms=weighted(1.0))
    assert abs(loss - wrong) > 1e-3


def test_padding_and_batching_change_nothing(models) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    _, _, together = run(models, student, aligner, batch, terms=weighted(0.5))
    pairs = PairEncoder(models["teacher_tokenizer"], models["student_tokenizer"]).encode(TEXTS)
    alone: dict[str, float] = defaultdict(float)
    for pair in pairs:
        single = WindowCollator(0, 0, aligner)([pair])
        _, _, statistics = run(models, student, aligner, single, terms=weighted(0.5))
        for name, value in statistics.items():
            alone[name] += value
    for name in together:
        assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-4)


def test_gradient_accumulation_divides_by_all_tokens(models) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    loss, _, statistics = run(models, student, aligner, batch, terms=weighted(0.5))
    halved = dict(batch) | {"num_items_in_batch": torch.tensor(2 * statistics["num_tokens"])}
    half, _, _ = run(models, student, aligner, halved, terms=weighted(0.5))
    assert half == pytest.approx(loss / 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 1.5])  # in closed form, and by autograd
def test_mixed_precision_is_close_to_float32(models, dtype: torch.dtype, temperature: float) -> None:
    """As on an accelerator: a teacher in `dtype`, autocast, a scaled loss; the sums stay in float32."""
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = {"terms": weighted(0.7), "temperature": temperature, "chunk_size": 7}
    loss, grads, _ = run(models, student, aligner, batch, **settings)
    teacher = LiveTeacher(copy.deepcopy(models["teacher"]).to(dtype))
    objective = DistillationObjective(ObjectiveSettings(**settings), aligner, teacher)
    student.zero_grad()
    scale = 2.0**12
    with distilling(student, objective):
        with torch.autocast("cpu", dtype=dtype):
            half = student(**batch)["loss"]
        (scale * half).backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss, rel=5e-3)
    for name, parameter in student.named_parameters():
        found, expected = parameter.grad.flatten() / scale, grads[name].flatten()
        assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.995, name
        assert found.norm().item() == pytest.approx(expected.norm().item(), rel=0.02), name


def test_text_alone_is_language_modelling(models) -> None:
    student, _, batch = make_batch(models, "prefix", same=False)
    objective = DistillationObjective(ObjectiveSettings(terms=TEXT_ALONE))
    with distilling(student, objective):
        loss = student(**batch)["loss"].item()
    labels = torch.from_numpy(np.array(batch["shift_labels"]))
    logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert loss == pytest.approx(expected.item(), abs=1e-5)


def test_the_students_own_forward_is_back_afterwards(models) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    before = student.forward
    run(models, student, aligner, batch, terms=weighted(0.5))
    assert student.forward == before
