"""The report of a real evaluation in a real browser: light and dark, on a desk and in a hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import SCHEMES, WIDTHS, channels, check_figures, contrast, luminance, needs_browser, visit

from distillation.audit.page import audit_summary

pytestmark = needs_browser


@pytest.fixture(scope="module")
def sure_student_dir(tiny_student_dir, tmp_path_factory) -> Path:
    """The tiny student with weights so large that it is sure of what is wrong."""
    import torch

    from distillation.config import ModelReference
    from distillation.models.load import load_model, load_tokenizer

    reference = ModelReference(path=str(tiny_student_dir))
    model = load_model(reference, "student", dtype="float32")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)
    directory = tmp_path_factory.mktemp("sure")
    model.save_pretrained(directory)
    load_tokenizer(reference, "student").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def evaluation(tiny_teacher_dir, tiny_student_dir, sure_student_dir, english_documents):
    from distillation.config import EvaluationSettings
    from distillation.evaluation.evaluate import evaluate_models

    names = ("untouched", "text_only", "truncate", "distilled")
    return evaluate_models(
        dict.fromkeys(names, tiny_student_dir) | {"text_only": sure_student_dir},
        tiny_teacher_dir,
        english_documents[:16],
        EvaluationSettings(max_length=128, stride=96, num_new_tokens=12),
        held_out_fingerprint="0123456789abcdef",
        sources=["first"] * 8 + ["second"] * 8,
        device="cpu",
        show_progress=False,
    )


@pytest.fixture(scope="module")
def page(evaluation, tiny_teacher_dir, tiny_student_dir, english_documents):
    from distillation.audit.audit import audit_tokenizers
    from distillation.config import ModelReference, Settings
    from distillation.models.load import load_tokenizer
    from distillation.report.page import report_page

    teacher, student = (
        load_tokenizer(ModelReference(path=str(path)), "teacher")
        for path in (tiny_teacher_dir, tiny_student_dir)
    )
    audit = audit_tokenizers(teacher, student, english_documents[:8])
    history = [
        {"step": step, "tokens": 1000 * step, "time": 0.0, "metrics": {"cross_entropy": 5.0 / step}}
        for step in range(1, 20)
    ]
    return report_page(
        evaluation, audit_summary(audit), histories={"distilled": history}, settings=Settings()
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_drawn_and_nothing_is_asked_for(page, tmp_path, width, scheme):
    seen = visit(page, tmp_path, width=width, scheme=scheme)
    found = seen.found
    check_figures(seen, page, width)
    assert len(found["figures"]) >= 14
    assert found["is_dark"] is (scheme == "dark")
    assert (luminance(channels(found["page"])) < 0.1) is (scheme == "dark")
    assert contrast(channels(found["text"]), channels(found["page"])) > 7
    for shade in found["shades"]:
        assert contrast(channels(found["text"]), channels(shade, found["card"])) > 4.5
    assert channels(found["before"]) != channels(found["after"])  # the other student's colours


def test_the_view_is_of_real_text(page, evaluation, english_documents):
    assert evaluation.passages
    for passage in evaluation.passages:
        assert english_documents[passage.document].startswith(passage.text)
        assert set(passage.bits) == {"teacher", "distilled", "text_only"}


def test_the_browser_would_notice(tmp_path):
    """A figure without a size, a request, an error and a page too wide are all seen."""
    broken = (
        '<html><body style="color:#777;background:#888"><svg style="width:0;height:0"><path d="M0 0"/></svg>'
        '<img src="http://example.invalid/a.png"><div style="width:900px">.</div>'
        "<script>console.error('boo')</script></body></html>"
    )
    seen = visit(broken, tmp_path, width=390, scheme="light")
    assert any("boo" in line for line in seen.console)
    assert seen.found["requests"] == ["http://example.invalid/a.png"]
    assert seen.found["scroll"] > 390
    assert seen.found["figures"][0]["width"] == 0
    assert seen.found["figures"][0]["shapes"] == 0
