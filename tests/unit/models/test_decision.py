"""One decision on device, formats, attention and chunks: by rule under any load, and obeyed or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from processors import TILES, VECTORS, give_processor

from distillation.config import ObjectiveSettings, Settings, TermWeights, parse_settings
from distillation.errors import JobError, SettingsError
from distillation.evaluation.loading import load_for_evaluation
from distillation.models import device
from distillation.models.decision import Decision, TeacherDecision, chunk_sizes_of, decide, decide_teacher
from distillation.models.inspect.probe import probe_model, probe_rows
from distillation.models.load import resolve_path


def settings_for(**sections: Any) -> Settings:
    sections["models"] = {"device": "cpu"} | sections.get("models", {})
    return parse_settings(sections)


def test_load_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a clock that says anything nor memory that is nearly full."""
    before = decide(settings_for())
    total = psutil.virtual_memory().total
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000, total=total))
    for name in ("thread_time", "perf_counter", "process_time"):
        monkeypatch.setattr(f"time.{name}", lambda: pytest.fail("a clock was read"))
    assert decide(settings_for()) == before
    # The embedded pair on any machine with 2 GB: what training took before, when enough was free.
    if device.free_memory("cpu")[1] >= 2 * 2**30:
        assert (before.chunks.closed_form, before.chunks.autograd) == (4096, 2048)


@pytest.mark.parametrize(
    ("features", "expected"), [(TILES, "bfloat16"), (VECTORS, "float32"), ({"avx2"}, "float32")]
)
def test_tiles_decide_the_teacher(monkeypatch: pytest.MonkeyPatch, features: set[str], expected: str) -> None:
    give_processor(monkeypatch, features)
    found = decide(settings_for())
    assert (found.device, found.teacher_dtype) == ("cpu", expected)
    assert found.bfloat16_by == ("amx" if expected == "bfloat16" else None)
    assert found.student_products == "float32", "autocast on a processor is the user's choice"
    assert expected in found.summary
    assert "AMX" in found.summary or "no gain" in found.summary
    products = decide(settings_for(training={"autocast": "bfloat16"}))
    assert products.student_products == "bfloat16"
    assert products.bfloat16_by is not None


def test_a_decision_is_read_back_as_it_was() -> None:
    both = decide(settings_for()), decide_teacher(settings_for().models)
    assert Decision.model_validate_json(both[0].model_dump_json()) == both[0]
    assert TeacherDecision.model_validate_json(both[1].model_dump_json()) == both[1]
    assert both[0].identity.keys().isdisjoint({"threads", "machine", "why"})


def test_attention_is_a_name() -> None:
    assert decide(settings_for()).teacher_attention == "sdpa"
    maps = decide(settings_for(objective={"terms": {"cross_entropy": 0.5, "attention": 0.5}}))
    assert (maps.teacher_attention, maps.student_attention) == ("eager", "eager")
    eager = decide(settings_for(models={"student": {"attention": "eager"}}))
    assert (eager.teacher_attention, eager.student_attention) == ("sdpa", "eager")


@pytest.mark.parametrize("setting", ["auto", "eager", "sdpa"])
def test_what_the_probe_says_is_decided_and_loaded(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    give_processor(monkeypatch, TILES)  # frozen models are in bf16 here, a student in training is not
    models = settings_for(models={"student": {"attention": setting}}).models
    probe = probe_model(models.student, "student", device="cpu")
    decision = decide(Settings(models=models))
    assert probe.attention_chosen == decision.student_attention
    assert probe.device.dtype == "float32"
    assert probe.weights_bytes == 4 * probe.architecture.num_parameters
    directory = resolve_path(models.student, "student")
    for reference in (
        models.student,
        models.student.trained(directory),
    ):  # the untouched one and a trained one
        model, _ = load_for_evaluation(reference, "student", decision)
        assert model.config._attn_implementation == probe.attention_chosen
        assert model.dtype == torch.float32
    teacher = probe_model(models.teacher, "teacher", device="cpu")
    assert (teacher.attention_chosen, teacher.device.dtype) == (decision.teacher_attention, "bfloat16")


def test_an_attention_that_differs_here_is_taken_and_told() -> None:
    found = probe_model(settings_for().models.student, "student", device="cpu")
    flash, sdpa, eager = found.attention.implementations
    sdpa = sdpa.model_copy(update={"works": False, "reason": "it differs"})
    attention = found.attention.model_copy(update={"implementations": (flash, sdpa, eager)})
    rows = dict(probe_rows([found.model_copy(update={"attention": attention})]))
    assert rows["attention that works"] == ["eager; taken: sdpa, though it differs"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_student_in_half_precision_is_refused(dtype: str) -> None:
    with pytest.raises(SettingsError, match="small updates vanish") as refused:
        settings_for(models={"student": {"dtype": dtype}})
    assert f"models.student.dtype = '{dtype}'" in str(refused.value)
    assert f"training.autocast = '{dtype}'" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert settings_for(models={"student": {"dtype": "float32"}, "teacher": {"dtype": dtype}})


def test_chunks_follow_the_objective() -> None:
    gold = ObjectiveSettings(terms=TermWeights(gold=1.0))
    plain = chunk_sizes_of(ObjectiveSettings(), 400_000, 400_000, "cpu")
    assert chunk_sizes_of(gold, 400_000, 400_000, "cpu").autograd <= plain.autograd
    fixed = chunk_sizes_of(ObjectiveSettings(chunk_size=7), 3072, 8192, "cpu")
    assert (fixed.closed_form, fixed.autograd) == (7, 7)


def test_another_machine_is_told_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    give_processor(monkeypatch, TILES)
    found = decide(settings_for())
    assert found.problem_here() is None
    give_processor(monkeypatch, VECTORS)
    with pytest.raises(
        JobError, match=r"^job x: it was begun with bfloat16 by amx, .*, or begin anew$"
    ) as caught:
        found.obey("job x", "begin anew")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("distillation.models.decision.cuda_problem", lambda: "no CUDA device answers")
    on_gpu = found.model_copy(update={"device": "cuda", "bfloat16_by": None})
    assert on_gpu.problem_here() == "it was begun on a GPU, and here no CUDA device answers"


def test_threads_are_as_decided_and_another_processor_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    num_threads = torch.get_num_threads()
    found = decide(settings_for()).model_copy(update={"threads": 3, "machine": "a processor with ALTIVEC"})
    try:
        found.obey("job x", "begin anew")
        assert torch.get_num_threads() == 3
        monkeypatch.setenv("WORLD_SIZE", "2")
        found.model_copy(update={"threads": 1}).obey("job x", "begin anew")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)
    assert "begun on a processor with ALTIVEC, going on on a processor with" in caplog.text


def test_a_format_that_is_not_to_be_had_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"training\.autocast = 'float16'"):
        decide(settings_for(training={"autocast": "float16"}))
