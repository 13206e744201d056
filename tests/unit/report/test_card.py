"""The card's header is YAML, its figures are the evaluation's, and model text cannot break out."""

from __future__ import annotations

import yaml

from distillation.config import Settings
from distillation.report.card import model_card


def header_of(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_header_and_figures(evaluation, corpus_report):
    card = model_card(evaluation, Settings(), name="tiny", corpus_report=corpus_report)
    header = header_of(card)
    assert header["library_name"] == "transformers"
    metric = header["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == round(evaluation.results["distilled"].bits_per_byte, 4)
    assert "base_model" not in header  # the embedded student has no name on the hub
    assert "| **distilled student** | 2.117 | 22.1 % |" in card
    assert "`" + "a" * 16 + "`" in card
    assert evaluation.held_out_fingerprint in card
    assert "closes 22 % of the gap" in card
    assert "\u00a0" not in card


def test_hub_names_are_kept_and_folders_are_not(evaluation):
    models = {
        "student": {"path": "HuggingFaceTB/SmolLM2-135M"},
        "teacher": {"path": "/home/someone/big-teacher"},
    }
    card = model_card(evaluation, Settings.model_validate({"models": models}))
    assert header_of(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert "| Teacher | big-teacher |" in card


def test_a_worse_student_has_an_honest_card(worse_evaluation):
    assert "Distillation did harm" in model_card(worse_evaluation, Settings())


def test_backticks_and_cells_cannot_break_out(make_evaluation, corpus_report):
    evaluation = make_evaluation(continuation="```\n# Break\n````", text_only=2.2, distilled=2.1, teacher=1.5)
    report = corpus_report.model_copy(update={"source": "a | b\n<script>"})
    card = model_card(evaluation, Settings(), corpus_report=report)
    assert "`````text\nReturn" in card
    assert "| Corpus | a \\| b &lt;script> |" in card


def test_origins_are_rows_and_folders_stay_private(evaluation):
    models = {"teacher": {"path": "/home/someone/big-teacher"}}
    settings = Settings.model_validate({"models": models, "training": {"output_dir": "/data/someone/jobs"}})
    card = model_card(evaluation, settings, origins=[("Libraries", "torch 2.13.0 | transformers 5.23.0")])
    assert "| Libraries | torch 2.13.0 \\| transformers 5.23.0 |" in card
    assert "path: big-teacher" in card
    assert "output_dir: jobs" in card
    assert "someone" not in card
