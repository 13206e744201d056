"""The model card of a student that passed: the card of its evaluation, its origins, and the gate's lines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from distillation.config import PromotionSettings, Settings
from distillation.errors import PromotionError, TrackingError
from distillation.redaction import scrub
from tracking.gate import Contest, GateReport
from tracking.registration import download_artifact
from tracking.registry import STUDENT_DIGEST_TAG, TEACHER_DIGEST_TAG, Candidate
from tracking.runs import Recorder
from tracking.server import tracking_errors

SETTINGS_FILE, EVALUATION_FILE, CORPUS_FILE = "settings.json", "evaluation.json", "corpus/report.json"
REQUIREMENTS_FILE = "requirements.txt"


def promotion_card(
    recorder: Recorder, contest: Contest, gate: GateReport, settings: PromotionSettings
) -> str:
    """Return the card of the candidate, made from the artifacts of its run.

    Raises:
        PromotionError: the run lacks the artifacts of a finished evaluation.
        TrackingError: the server fails.
    """
    from distillation.corpus.corpus import CorpusReport
    from distillation.evaluation.result import Evaluation
    from distillation.report.card import model_card

    candidate = contest.candidate
    with tempfile.TemporaryDirectory() as folder:
        read = _reader(recorder, candidate, Path(folder))
        evaluation = Evaluation.model_validate_json(read(EVALUATION_FILE))
        corpus_report = CorpusReport.model_validate_json(read(CORPUS_FILE))
        trained_with = Settings.model_validate_json(read(SETTINGS_FILE))
    card = model_card(
        evaluation,
        trained_with,
        name=settings.model_name,
        corpus_report=corpus_report,
        origins=_origins(recorder, candidate),
    )
    return scrub(f"{card}\n{_promotion(contest, gate, settings)}\n\n{_every_figure(candidate)}\n")


def _reader(recorder: Recorder, candidate: Candidate, folder: Path) -> Callable[[str], str]:
    """Return the function that reads an artifact of the run as text."""

    def read(path: str) -> str:
        try:
            with tracking_errors(recorder.uri):
                local = recorder.client.download_artifacts(candidate.run_id, path, str(folder))
            return Path(local).read_text(encoding="utf-8")
        except TrackingError as error:
            names = {file.path for file in recorder.client.list_artifacts(candidate.run_id)}
            if path.split("/")[0] in names:
                raise
            raise PromotionError(
                f"run {candidate.run_name} is not promoted: it has no artifact {path}, which its model card "
                "is made from; record it again with this release"
            ) from error

    return read


def _origins(recorder: Recorder, candidate: Candidate) -> list[tuple[str, str]]:
    """Return what the run knows about files and libraries, as rows of the card's table."""
    rows = [
        (title, f"digest `{candidate.tags[tag]}`")
        for title, tag in (
            ("Files of the teacher", TEACHER_DIGEST_TAG),
            ("Files of the student before training", STUDENT_DIGEST_TAG),
        )
        if tag in candidate.tags
    ]
    libraries = _libraries(recorder, candidate)
    if libraries:
        rows.append(("Libraries", ", ".join(libraries)))
    return [*rows, ("MLflow run", f"{candidate.run_name} (`{candidate.run_id}`)")]


def _libraries(recorder: Recorder, candidate: Candidate) -> list[str]:
    """Return the versions that the student was logged with, which are those that trained it."""
    with tracking_errors(recorder.uri):
        logged = recorder.client.get_logged_model(candidate.model_uri.removeprefix("models:/"))
    with tempfile.TemporaryDirectory() as folder:
        location = f"{logged.artifact_location}/{REQUIREMENTS_FILE}"
        lines = download_artifact(recorder, location, Path(folder)).read_text(encoding="utf-8").splitlines()
    return [line.replace("==", " ") for line in lines if "==" in line]


def _promotion(contest: Contest, gate: GateReport, settings: PromotionSettings) -> str:
    from distillation.report.card import table

    rows = [(line.condition, "yes" if line.passed else "no", line.figures) for line in gate.lines]
    return (
        f"## Promotion\n\nBest of {contest.num_runs} comparable run(s), judged by `{settings.metric}`. "
        f"The gate found:\n\n{table(('Condition', 'Holds', 'Figures'), rows)}\n\n"
        f'With MLflow: `mlflow.transformers.load_model("models:/{settings.model_name}@champion")`, as long '
        "as it is the champion."
    )


def _every_figure(candidate: Candidate) -> str:
    from distillation.report.card import table

    rows = [(name, f"{value:.6g}") for name, value in sorted(candidate.metrics.items())]
    return f"## Every figure\n\n{table(('Metric', 'Value'), rows)}"
