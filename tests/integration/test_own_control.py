"""A control that the product does not know: registered by one class, it is trained, measured and shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from own_control import HalfText, register


def test_a_third_control_is_seen_everywhere(
    workplace: Any, zenml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    evaluation = {**workplace.settings["evaluation"], "controls": ["half_text", "text_only"], "tasks": []}
    settings = {**workplace.settings, "evaluation": evaluation, "tracking": {"experiment": "own control"}}
    config = workplace.config("own_control.yaml", settings)
    run = "pipelines.distillation.distillation_pipeline"
    result = zenml("pipeline", "run", run, "-c", config, "-s", "local")
    assert result.exit_code == 0, result.output

    table = result.output[result.output.index("bits/byte") :]
    titles = ["untouched student", "text-only student", HalfText.title, "distilled student", "teacher"]
    places = [table.index(title) for title in titles]
    assert places == sorted(places)
    page = (workplace.root / "outputs" / "report.html").read_text()
    assert HalfText.explanation in page
    assert HalfText.colour in page
    assert re.search(rf"{HalfText.action} gives \d\.\d+: (no )?worse than no teacher", page)

    from stacks.local import local_tracking_uri
    from tracking.runs import Recorder

    recorder = Recorder(local_tracking_uri(), "own control")
    runs = recorder.client.search_runs([recorder.experiment_id()], "tags.role != ''")
    [parent] = [one for one in runs if one.data.tags["role"] == "pipeline"]
    [own] = [one for one in runs if one.data.tags["variant"] == "half_text"]
    assert own.info.run_name == "half_text: 1 cross_entropy seed 0"
    assert own.data.tags["aligner"] == "none"
    assert own.data.params["training.max_steps"] == "2"
    assert own.data.metrics["progress/optimizer_step"] == 2
    assert own.data.metrics["test/bits_per_byte"] == parent.data.metrics["half_text.bits_per_byte"]
    assert "half_text.gap_closed" in parent.data.metrics or "distilled.gap_closed" not in parent.data.metrics
