"""Aligners that learn: their formulas, who gets a gradient from whom, and that they leave no trace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from objective_reference import dense_logits, make_batch
from torch import Tensor, nn

from distillation.aligners.build import build_aligner
from distillation.aligners.curriculum import ScheduledAligner
from distillation.aligners.trained_heads import FLOOR, CrossModelAttention, build_companion
from distillation.config import ObjectiveSettings, TermWeights
from distillation.corpus.windows import WindowCollator
from distillation.losses.objective import DistillationObjective
from distillation.teachers.live import LiveTeacher
from distillation.training.trainer import distilling

TERMS = TermWeights(cross_entropy=0.2, forward_kl=0.8)


def learning_objective(models: Any, strategy: str, student: Any, aligner: Any) -> DistillationObjective:
    torch.manual_seed(4)
    companion = build_companion(strategy, models["teacher"], student, aligner.num_student_rows, 3)
    for parameter in companion.parameters():
        nn.init.normal_(parameter, std=0.3)
    modules = nn.ModuleDict({"companion0": companion})
    teacher = LiveTeacher(models["teacher"])
    return DistillationObjective(
        ObjectiveSettings(terms=TERMS, chunk_size=6), aligner, teacher, modules=modules
    )


def run(student: Any, objective: DistillationObjective, batch: Any) -> tuple[float, dict[str, float]]:
    student.zero_grad()
    objective.modules.zero_grad()
    with distilling(student, objective):
        outputs = student(**batch)
        outputs["loss"].backward()
    found = dict(zip(objective.statistic_names, outputs["statistics"].tolist(), strict=True))
    return outputs["loss"].item(), found


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


def test_learned_equals_its_formula(models: Any) -> None:
    student, aligner, batch = make_batch(models, "learned", same=False)
    objective = learning_objective(models, "learned", student, aligner)
    companion = objective.modules["companion0"]
    loss, found = run(student, objective, batch)
    ours, theirs = gradients(student), gradients(companion)

    # The rule's own targets, from the aligner `prefix`, which other tests hold against the definition.
    plain = build_aligner(
        "prefix",
        models["teacher_tokenizer"],
        models["student_tokenizer"],
        num_teacher_rows=aligner.num_teacher_rows,
        num_student_rows=aligner.num_student_rows,
    )
    rule = DistillationObjective(ObjectiveSettings(terms=TERMS), plain, LiveTeacher(models["teacher"]))
    student.zero_grad()
    companion.zero_grad()
    logits_BTV, _ = dense_logits(models, student, batch)
    with distilling(student, rule):
        from distillation.kernels.batch import BatchView, StudentOutput

        view = BatchView(batch, StudentOutput(logits_BTV, None, None, logits_BTV.shape[-1]), rule.teacher)
        base = rule.target_source(view).of_chunk(slice(0, len(view.labels_N)))
    assert len(base.index_m) == len(view.labels_N)
    target_NV = base.target_mV[base.index_m.argsort()]
    used = batch["shift_labels"] >= 0
    states = (
        models["teacher"]
        .base_model(input_ids=batch["teacher_input_ids"], attention_mask=batch["teacher_attention_mask"])
        .last_hidden_state
    )
    total, own = torch.zeros(()), torch.zeros(())
    window, position = used.nonzero().T
    for n in range(len(view.labels_N)):
        state = states[window[n], batch["teacher_position"][window[n], position[n]]]
        state = torch.nn.functional.layer_norm(state.detach(), state.shape)
        correction = companion.up_VK @ (companion.down.weight @ state)
        target = (target_NV[n] + FLOOR / 400).log() + correction
        target = target.log_softmax(-1)
        log_student = logits_BTV[window[n], position[n]].log_softmax(-1)
        fixed = target.detach()
        kl = (fixed.exp() * (fixed - log_student)).sum()
        total = total + 0.2 * -log_student[view.labels_N[n]] + 0.8 * kl
        own = own - target[view.labels_N[n]]
    expected = (total + own) / len(view.labels_N)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert found["companion"] == pytest.approx(own.item(), rel=1e-5)
    for mine, reference in zip(ours + theirs, gradients(student) + gradients(companion), strict=True):
        torch.testing.assert_close(mine, reference, atol=3e-6, rtol=2e-3)


def test_a_fresh_correction_changes_nothing(models: Any) -> None:
    student, aligner, batch = make_batch(models, "learned", same=False)
    companion = build_companion("learned", models["teacher"], student, aligner.num_student_rows, 3)
    objective = DistillationObjective(
        ObjectiveSettings(terms=TermWeights(forward_kl=1.0)),
        aligner,
        LiveTeacher(models["teacher"]),
        modules=nn.ModuleDict({"companion0": companion}),
    )
    _, rule, _ = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(terms=TermWeights(forward_kl=1.0))
    plain = DistillationObjective(settings, rule, LiveTeacher(models["teacher"]))
    _, one = run(student, objective, batch)
    _, other = run(student, plain, batch)
    assert one["sum.forward_kl"] == pytest.approx(other["sum.forward_kl"], rel=5e-3)


def test_attention_equals_its_formula(models: Any) -> None:
    student, aligner, batch = make_batch(models, "attention", same=False)
    objective = learning_objective(models, "attention", student, aligner)
    companion = objective.modules["companion0"]
    assert isinstance(companion, CrossModelAttention)
    loss, found = run(student, objective, batch)
    ours, theirs = gradients(student), gradients(companion)
    student.zero_grad()
    companion.zero_grad()

    teacher = models["teacher"]
    logits_BTV, _ = dense_logits(models, student, batch)
    hidden = teacher.base_model(
        input_ids=batch["teacher_input_ids"], attention_mask=batch["teacher_attention_mask"]
    ).last_hidden_state.detach()
    embed_s = student.get_input_embeddings().weight.detach()
    embed_t = teacher.get_input_embeddings().weight.detach()
    labels_t = batch["teacher_labels"].clamp_min(0)
    keys = torch.cat([embed_t[batch["teacher_input_ids"]], embed_t[labels_t]], -1)
    keys, following = keys / keys.std(), embed_t[labels_t]
    values = companion.value(hidden / hidden.std() + following / following.std())
    total, own, count, num_right = torch.zeros(()), torch.zeros(()), 0, 0
    for b, labels in enumerate(batch["shift_labels"].tolist()):
        length = int(batch["teacher_attention_mask"][b].sum())
        for j, label in enumerate(labels):
            if label < 0:
                continue
            count += 1
            query = companion.query(torch.cat([embed_s[batch["input_ids"][b, j]], embed_s[label]]))
            weights = (keys[b, :length] @ query / math.sqrt(len(query))).softmax(0)
            written = student.get_output_embeddings().weight.detach() @ (weights @ values[b, :length])
            log_student = logits_BTV[b, j].log_softmax(-1)
            own = own - written.log_softmax(-1)[label]
            fixed = written.detach().log_softmax(-1)
            if int(fixed.argmax()) == label:
                num_right += 1
                total = total + 0.2 * -log_student[label] + 0.8 * (fixed.exp() * (fixed - log_student)).sum()
            else:
                total = total - log_student[label]
    expected = (total + own) / count
    expected.backward()
    assert found["num_targets"] == num_right
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for mine, reference in zip(ours + theirs, gradients(student) + gradients(companion), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=5e-3)


@pytest.mark.parametrize("strategy", ["learned", "attention"])
def test_no_gradient_crosses_over(models: Any, strategy: str) -> None:
    student, aligner, batch = make_batch(models, strategy, same=False)
    objective = learning_objective(models, strategy, student, aligner)
    names = {name for name, _ in student.named_parameters()}
    with distilling(student, objective):
        assert set(dict(student.named_parameters())) > names
        with_text = student(**batch, only="cross_entropy")["loss"]
        assert not any(
            grad is not None and grad.any()
            for grad in torch.autograd.grad(
                with_text, list(objective.modules.parameters()), allow_unused=True, retain_graph=True
            )
        )
    assert {name for name, _ in student.named_parameters()} == names, "the student is itself again"


def test_a_schedule_passes_from_one_aligner_to_the_next(models: Any) -> None:
    student, shared, batch = make_batch(models, "shared", same=False)
    _, prefix, _ = make_batch(models, "prefix", same=False)
    schedule = ScheduledAligner([shared, prefix], [0.5, 1.0])
    pairs_batch = make_batch(models, "prefix", same=False)[2]
    from objective_reference import TEXTS

    from distillation.tokenizers.pairs import PairEncoder

    pairs = PairEncoder(models["teacher_tokenizer"], models["student_tokenizer"]).encode(TEXTS)
    both = WindowCollator(0, 0, schedule)(pairs)
    assert torch.equal(both["teacher_position"], batch["teacher_position"])
    assert torch.equal(both["teacher_position_1"], pairs_batch["teacher_position"])
    settings = ObjectiveSettings(terms=TermWeights(forward_kl=1.0))
    teacher = LiveTeacher(models["teacher"])
    scheduled = DistillationObjective(settings, schedule, teacher)
    for progress in (0.0, 0.49, 0.5, 1.0):
        aligner, its_batch = (shared, batch) if progress < 0.5 else (prefix, pairs_batch)
        scheduled.progress = progress
        expected, _ = run(student, DistillationObjective(settings, aligner, teacher), its_batch)
        found, _ = run(student, scheduled, both)
        assert found == pytest.approx(expected, rel=1e-6)
