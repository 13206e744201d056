"""The distilled student as a loadable MLflow model.

`mlflow.transformers.load_model(URI)` gives a text-generation pipeline. The folder `model/` of the downloaded
model holds weights, configuration *and* tokenizer, so that `AutoModelForCausalLM.from_pretrained` and
`AutoTokenizer.from_pretrained` read it without MLflow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from distillation.quiet import at_level
from tracking.runs import Recorder
from tracking.server import tracking_errors

_LIBRARIES = ("transformers", "torch", "accelerate", "safetensors")
_ADVISERS = (
    "mlflow.transformers",
    "mlflow.utils.environment",
    "mlflow.tracking.fluent",
    "mlflow.store.model_registry",
)
"""Loggers that advise on model cards, licences and versions."""


def log_student(recorder: Recorder, run_id: str, directory: Path, *, metadata: dict[str, str]) -> str:
    """Log the student saved in `directory` to the run; return the model's URI, `models:/ID`.

    Raises:
        TrackingError: the server failed.
    """
    import mlflow
    import mlflow.transformers
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = directory.resolve()
    parts = {
        "model": AutoModelForCausalLM.from_pretrained(path),
        "tokenizer": AutoTokenizer.from_pretrained(path),
    }
    requirements = [f"{name}=={version(name)}" for name in _LIBRARIES]
    with (
        tracking_errors(recorder.uri),
        at_level(logging.ERROR, *_ADVISERS),
        _fluent(recorder.uri),
        mlflow.start_run(run_id=run_id),
    ):
        info = mlflow.transformers.log_model(
            parts,
            name="student",
            task="text-generation",
            pip_requirements=requirements,
            metadata=metadata,
            # A card of our own keeps MLflow from asking the hub for one.
            model_card=ModelCard(
                "---\nlicense: other\n---\nThe card is written when a student is promoted.\n"
            ),
        )
        _add_tokenizer(recorder, info.model_id, path)
    return str(info.model_uri)


def _add_tokenizer(recorder: Recorder, model_id: str, student: Path) -> None:
    """Put the tokenizer's files beside the weights, where transformers looks for them."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        target.mkdir()
        for file in student.iterdir():
            if file.is_file() and ("token" in file.name or file.suffix in (".txt", ".jinja", ".model")):
                shutil.copy2(file, target / file.name)
        recorder.client.log_model_artifacts(model_id, folder)


@contextlib.contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """Point MLflow's module-level functions at `uri`, and back."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before or "")
