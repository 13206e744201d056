"""The model card of a champion: the card of its evaluation, and the gate that it passed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distillation.config import PromotionSettings, Settings
from tracking.gate import Contest, GateReport
from tracking.runs import Recorder
from tracking.server import tracking_errors

SETTINGS_FILE, EVALUATION_FILE, CORPUS_FILE = "settings.json", "evaluation.json", "corpus/report.json"


def promotion_card(
    recorder: Recorder, contest: Contest, gate: GateReport, settings: PromotionSettings
) -> str:
    """Return the card of the candidate, made from the artifacts of its run.

    Raises:
        TrackingError: the server fails, or the run lacks the artifacts of a finished evaluation.
    """
    from distillation.corpus import CorpusReport
    from distillation.evaluation import Evaluation
    from distillation.report import model_card

    run_id = contest.candidate.run_id
    with tracking_errors(recorder.uri), tempfile.TemporaryDirectory() as folder:

        def read(path: str) -> str:
            local = recorder.client.download_artifacts(run_id, path, folder)
            return Path(local).read_text(encoding="utf-8")

        evaluation = Evaluation.model_validate_json(read(EVALUATION_FILE))
        corpus_report = CorpusReport.model_validate_json(read(CORPUS_FILE))
        trained_with = Settings.model_validate_json(read(SETTINGS_FILE))
    card = model_card(evaluation, trained_with, name=settings.model_name, corpus_report=corpus_report)
    conditions = "\n".join(f"- {line.condition}: {line.figures}" for line in gate.lines)
    intro = f"Best of {contest.num_runs} comparable run(s). The gate found:"
    return f"{card}\n## Promotion\n\n{intro}\n\n{conditions}\n"
