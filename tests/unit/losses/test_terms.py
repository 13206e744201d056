"""Each term against its slow reference, its gradient, and its oracle: equal models cost nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from objective_reference import (
    TEXTS,
    dense_logits,
    gold_group,
    likelihood,
    make_batch,
    sorted_difference,
    walk_groups,
)
from torch import Tensor

from distillation.config import (
    GoldSettings,
    LayerSettings,
    LikelihoodSettings,
    ObjectiveSettings,
    TermWeights,
)
from distillation.losses.gold import matched_tokens
from distillation.losses.layers import build_projections, matched_layers
from distillation.losses.objective import DistillationObjective
from distillation.teachers.live import LiveTeacher
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.token_bytes import boundary_tokens, tokens_as_bytes
from distillation.training.gradient_shares import gradient_shares
from distillation.training.trainer import distilling


def objective_for(models: Any, student: Any, aligner: Any, same: bool, settings: ObjectiveSettings) -> Any:
    tokenizers = models["teacher_tokenizer"], models["teacher_tokenizer" if same else "student_tokenizer"]
    teacher = LiveTeacher(models["teacher"])
    rows = (teacher.num_rows, student.config.vocab_size)
    tables = {"matched": matched_tokens(*tokenizers)}
    for name, tokenizer, size in zip(("boundary_U", "boundary_V"), tokenizers, rows, strict=True):
        tables[name] = boundary_tokens(tokens_as_bytes(tokenizer), size)
    modules = torch.nn.ModuleDict()
    if settings.terms.hidden:
        torch.manual_seed(3)
        modules["hidden"] = build_projections(models["teacher"], student, settings.layers.num_layers)
    return DistillationObjective(settings, aligner, teacher, modules=modules, tables=tables)


def loss_and_gradient(student: Any, objective: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    student.zero_grad()
    with distilling(student, objective):
        loss = student(**batch)["loss"]
        loss.backward()
    grads = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
    return loss.item(), grads


def assert_same(student: Any, found: tuple[float, dict[str, Tensor]], expected: Tensor) -> None:
    student.zero_grad()
    expected.float().backward()
    assert found[0] == pytest.approx(expected.item(), rel=2e-5, abs=2e-6)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[1][name], parameter.grad, atol=3e-6, rtol=2e-3)


def real_groups(models: Any, same: bool = False) -> list[Any]:
    tokenizer = models["teacher_tokenizer" if same else "student_tokenizer"]
    pairs = PairEncoder(models["teacher_tokenizer"], tokenizer).encode(TEXTS)
    return [walk_groups(pair.teacher.ends.tolist(), pair.student.ends.tolist()) for pair in pairs]


def labels_of(batch: Any) -> tuple[list[list[int]], list[list[int]]]:
    return batch["shift_labels"].tolist(), batch["teacher_labels"].tolist()


@pytest.mark.parametrize("tau", [1.0, 100.0])
@pytest.mark.parametrize("debias", ["none", "product", "merge"])
def test_likelihood_equals_the_formula(models: Any, debias: str, tau: float) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    options = LikelihoodSettings(temperature=tau, debias=debias, boundary_threshold=0.12)
    settings = ObjectiveSettings(terms=TermWeights(likelihood=1.0), likelihood=options, chunk_size=7)
    objective = objective_for(models, student, aligner, False, settings)
    found = loss_and_gradient(student, objective, batch)
    boundaries = tuple(
        {i for i, t in enumerate(tokens_as_bytes(models[name]).table) if t is None or t[:1].isspace()}
        for name in ("student_tokenizer", "teacher_tokenizer")
    )
    total = likelihood(
        dense_logits(models, student, batch),
        labels_of(batch),
        real_groups(models),
        boundaries,
        tau=tau,
        debias=debias,
        threshold=0.12,
    )
    assert any(len(rows) > 1 for group in real_groups(models) for rows, _ in group)
    assert_same(student, found, total / (batch["shift_labels"] >= 0).sum())


def test_uld_equals_the_formula(models: Any) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(terms=TermWeights(uld=1.5), temperature=1.3, chunk_size=9)
    found = loss_and_gradient(student, objective_for(models, student, aligner, False, settings), batch)
    ours, theirs = ((side / 1.3).softmax(-1) for side in dense_logits(models, student, batch))
    total, lengths = torch.zeros(()), (batch["teacher_labels"] >= 0).sum(1).tolist()
    for window, labels in enumerate(batch["shift_labels"].tolist()):
        for position in range(min(sum(label >= 0 for label in labels), lengths[window])):
            total = total + sorted_difference(ours[window, position], theirs[window, position])
    assert_same(student, found, 1.5 * total / (batch["shift_labels"] >= 0).sum())


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gold_equals_the_formula(models: Any, beta: float) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(terms=TermWeights(gold=1.0), gold=GoldSettings(beta=beta), chunk_size=5)
    objective = objective_for(models, student, aligner, False, settings)
    found = loss_and_gradient(student, objective, batch)
    ours, theirs = (side.softmax(-1) for side in dense_logits(models, student, batch))
    vocabularies = models["teacher_tokenizer"].get_vocab(), models["student_tokenizer"].get_vocab()
    matched = [(i, vocabularies[1][t]) for t, i in vocabularies[0].items() if t in vocabularies[1]]
    labels, total = labels_of(batch), torch.zeros(())
    for window, groups in enumerate(real_groups(models)):
        for group in groups:
            sides = labels[0][window], labels[1][window]
            value = gold_group(ours[window], theirs[window], group, sides, matched, beta)
            total = total + len(group[1]) * value
    assert_same(student, found, total / (batch["shift_labels"] >= 0).sum())


def loop_over_groups(models: Any, student: Any, batch: Any, objective: Any, kind: str, count: int) -> Tensor:
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    theirs = {"input_ids": batch["teacher_input_ids"], "attention_mask": batch["teacher_attention_mask"]}
    options = {"output_hidden_states": True, "output_attentions": kind == "attention"}
    one, other = student(**inputs, **options), models["teacher"](**theirs, **options)
    total = torch.zeros(())
    pairs = matched_layers(len(one.hidden_states) - 1, len(other.hidden_states) - 1, count)
    for index, (ours, its) in enumerate(pairs):
        for window, groups in enumerate(real_groups(models)):
            for number, (rows, positions) in enumerate(groups):
                if kind == "hidden":
                    mean = one.hidden_states[ours][window, positions].mean(0)
                    mean = objective.modules["hidden"].layers[index](mean)
                    goal = other.hidden_states[its][window, rows].mean(0).detach()
                    norm = torch.nn.functional.layer_norm
                    value = (norm(mean, mean.shape) - norm(goal, goal.shape)).square().mean()
                else:
                    value = torch.zeros(())
                    maps = [
                        (side.mean(0)[at].mean(0), members)
                        for side, at, members in (
                            (one.attentions[ours - 1][window], positions, [p for _, p in groups]),
                            (other.attentions[its - 1][window], rows, [r for r, _ in groups]),
                        )
                    ]
                    columns = []
                    for row, members in maps:
                        # A token is read one row after the row that predicts it.
                        read = [row[[k + 1 for k in member if k + 1 < len(row)]].sum() for member in members]
                        columns.append(torch.stack([row[0], *read]))
                    assert columns[0].sum().item() == pytest.approx(1.0, abs=1e-5)
                    student_row, teacher_row = (column.clamp_min(1e-8) for column in columns)
                    value = (columns[1].detach() * (teacher_row.detach() / student_row).log()).sum()
                assert number >= 0
                total = total + len(positions) * value / len(pairs)
    return total


@pytest.mark.parametrize("kind", ["hidden", "attention"])
def test_inner_states_equal_the_loop_over_groups(models: Any, kind: str) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    if kind == "attention":
        models = dict(models) | {"teacher": copy.deepcopy(models["teacher"])}
        for model in (student, models["teacher"]):
            model.set_attn_implementation("eager")
    settings = ObjectiveSettings(terms=TermWeights(**{kind: 0.7}), layers=LayerSettings(num_layers=2))
    objective = objective_for(models, student, aligner, False, settings)
    found = loss_and_gradient(student, objective, batch)
    student.zero_grad()
    total = loop_over_groups(models, student, batch, objective, kind, 2)
    expected = 0.7 * total / (batch["shift_labels"] >= 0).sum()
    expected.backward()
    assert found[0] == pytest.approx(expected.item(), rel=1e-4)
    for name, parameter in student.named_parameters():
        if parameter.grad is not None and name in found[1]:
            torch.testing.assert_close(found[1][name], parameter.grad, atol=1e-5, rtol=5e-3)


@pytest.mark.parametrize("kind", ["likelihood", "uld", "gold", "hidden", "attention"])
def test_equal_models_cost_nothing(models: Any, kind: str) -> None:
    _, aligner, batch = make_batch(models, "prefix", same=True)
    student = copy.deepcopy(models["teacher"]).train().requires_grad_(True)
    models = dict(models) | {"teacher": copy.deepcopy(models["teacher"])}
    for model in (student, models["teacher"]):
        model.set_attn_implementation("eager")
    settings = ObjectiveSettings(terms=TermWeights(**{kind: 1.0}))
    loss, _ = loss_and_gradient(student, objective_for(models, student, aligner, True, settings), batch)
    assert loss == pytest.approx(0.0, abs=1e-5)


def test_layers_are_matched_by_depth() -> None:
    assert matched_layers(12, 24, 3) == [(4, 8), (8, 16), (12, 24)]
    assert matched_layers(2, 5, 8) == [(1, 2), (2, 5)]
    assert matched_layers(30, 28, 1) == [(30, 28)]


def test_the_terms_one_by_one_are_the_whole(models: Any) -> None:
    student, aligner, batch = make_batch(models, "shared", same=False)
    weights = {"cross_entropy": 0.2, "forward_kl": 0.5, "reverse_kl": 0.1, "likelihood": 0.3,
               "uld": 0.4, "gold": 0.6, "hidden": 0.2}  # fmt: skip
    settings = ObjectiveSettings(terms=TermWeights(**weights), chunk_size=6)
    objective = objective_for(models, student, aligner, False, settings)
    with distilling(student, objective):
        whole = student(**batch)["loss"]
        parts = {name: student(**batch, only=name)["loss"] for name in weights}
        parameters = [p for n, p in student.named_parameters() if not n.startswith("distillation.")]
        expected = torch.autograd.grad(whole, parameters)
        found = [torch.autograd.grad(part, parameters, allow_unused=True) for part in parts.values()]
        shares = gradient_shares(student, batch, list(weights))
    assert whole.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-5)
    for index, grad in enumerate(expected):
        total = sum(part[index] for part in found if part[index] is not None)
        torch.testing.assert_close(total, grad, atol=1e-5, rtol=1e-3)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(share > 0 for share in shares.values())
    assert not any(parameter.grad is not None for parameter in parameters), "measuring leaves no trace"


def test_a_term_that_drowns_is_named(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(terms=TermWeights(cross_entropy=1.0, forward_kl=1e-4))
    with distilling(student, objective_for(models, student, aligner, False, settings)):
        shares = gradient_shares(student, batch, ["cross_entropy", "forward_kl"])
    assert shares["forward_kl"] < 0.01
    assert "objective.terms.forward_kl" in caplog.text


@pytest.mark.parametrize("kind", ["likelihood", "gold", "hidden"])
def test_a_dropped_label_takes_its_whole_group_out(models: Any, kind: str) -> None:
    """Prompts have no labels: a group with such a token must not enter, nor change what others cost."""
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(
        terms=TermWeights(**{kind: 1.0}), likelihood=LikelihoodSettings(debias="none")
    )
    objective = objective_for(models, student, aligner, False, settings)
    groups = real_groups(models)[0]
    dropped = next(positions for _, positions in groups if len(positions) > 1)
    masked = dict(batch) | {"shift_labels": batch["shift_labels"].clone()}
    masked["shift_labels"][0, dropped[0]] = -100
    whole = dict(batch) | {"shift_labels": batch["shift_labels"].clone()}
    whole["shift_labels"][0, dropped] = -100
    with distilling(student, objective):
        one, other, all_of_it = (
            student(**{**each, "num_items_in_batch": 100})["loss"].item() for each in (masked, whole, batch)
        )
    assert one == pytest.approx(other, rel=1e-6)
    assert all_of_it != pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    "term",
    ["forward_kl", "reverse_kl", "total_variation", "likelihood", "uld", "gold", "hidden", "attention"],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_teacher_that_says_no_number_is_never_without_effect(models: Any, term: str, value: float) -> None:
    """Not "no target" and text alone, but a loss that is no number, which the training sees."""
    student, aligner, batch = make_batch(models, "prefix", same=False)
    settings = ObjectiveSettings(terms=TermWeights(cross_entropy=0.1, **{term: 1.0}))
    assert not _loss_with_faulty_teacher(models, student, aligner, settings, batch, value).isfinite()


@pytest.mark.parametrize("strategy", ["prefix", "shared", "projection", "truncate", "pad"])
def test_no_aligner_hides_a_teacher_that_says_no_number(models: Any, strategy: str) -> None:
    student, aligner, batch = make_batch(models, strategy, same=False)
    settings = ObjectiveSettings(terms=TermWeights(cross_entropy=0.1, forward_kl=0.9))
    loss = _loss_with_faulty_teacher(models, student, aligner, settings, batch, torch.nan)
    assert not loss.isfinite()


def _loss_with_faulty_teacher(
    models: Any, student: Any, aligner: Any, settings: ObjectiveSettings, batch: Any, value: float
) -> Tensor:
    """The loss where the teacher's states are not finite after the first tokens of the last window."""
    teacher = copy.deepcopy(models["teacher"])
    student = copy.deepcopy(student)
    if settings.terms.attention:
        teacher.set_attn_implementation("eager")
        student.set_attn_implementation("eager")

    def damage(module: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[-1, 3:] = value
        return output

    teacher.get_input_embeddings().register_forward_hook(damage)
    objective = objective_for(models | {"teacher": teacher}, student, aligner, False, settings)
    with distilling(student, objective), torch.no_grad():
        return student(**batch)["loss"]
