"""An evaluation in the dashboard: figures as pictures, headline figures beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillation.metrics_log import sealed_line

BITS = {"untouched": 2.331, "text_only": 2.281, "distilled": 2.117, "teacher": 1.540}


def test_an_evaluation_shows_its_figures(
    stored: Callable[[type], Any], make_evaluation: Callable[..., Any]
) -> None:
    from zenml.enums import VisualizationType

    from materializers.evaluation import EvaluationMaterializer

    evaluation = make_evaluation(**BITS)
    materializer = stored(EvaluationMaterializer)
    materializer.save(evaluation)
    assert materializer.load(type(evaluation)) == evaluation
    pictures = materializer.save_visualizations(evaluation)
    assert any(path.endswith("/bits_per_byte.png") for path in pictures)
    for path, kind in pictures.items():
        assert kind == VisualizationType.IMAGE
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    metadata = materializer.extract_metadata(evaluation)
    assert metadata["distilled_bits_per_byte"] == 2.117
    assert metadata["verdict"] == evaluation.verdict


def test_a_student_shows_its_curves(stored: Callable[[type], Any], tmp_path: Path) -> None:

    from zenml.enums import VisualizationType

    from distillation.training.student import Student
    from materializers.student import StudentMaterializer

    history = tmp_path / "metrics.jsonl"
    lines = [
        {
            "step": step,
            "tokens": 100 * step,
            "time": 1.0,
            "metrics": {"loss": 3.0 / step, "held_out/bits_per_byte": 2.0 + 1.0 / step},
        }
        for step in range(1, 8)
    ]
    history.write_text("".join(sealed_line(line) for line in lines))
    materializer = stored(StudentMaterializer)
    [(path, kind)] = materializer.save_visualizations(Student(tmp_path, "distilled", {}, history)).items()
    assert kind == VisualizationType.HTML
    page = Path(path).read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 2
    assert "tokens seen" in page
    history.write_text('{"step": 1}\n')
    assert materializer.save_visualizations(Student(tmp_path, "distilled", {}, history)) == {}
    assert materializer.save_visualizations(Student(tmp_path, "distilled")) == {}
