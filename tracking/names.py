"""Names of metrics as MLflow shows them: grouped, as its charts have a section for what stands before `/`.

`metrics.jsonl` keeps the trainer's short names, which the report reads; only the view has these. The table is
in docs/mlflow.md.
"""

from __future__ import annotations

STEP = "progress/optimizer_step"
TOKENS = "progress/tokens_seen"

_NAMES = {
    "grad_norm": "optimizer/gradient_norm",
    "learning_rate": "optimizer/learning_rate",
    "residual_mass": "targets/residual_mass",
    "target_share": "targets/share_of_positions",
    "tokens_per_second": "speed/tokens_per_second",
    "memory_mb": "memory/peak_mebibytes",
}


def shown_name(name: str) -> str:
    """Return the name in MLflow of a metric of `metrics.jsonl`.

    A name that is grouped already is kept; all others are losses and their terms.
    """
    return name if "/" in name else _NAMES.get(name, f"train/{name}")


def final_name(measure: str) -> str:
    """Return the name of a final figure in a student's own run: the same for every variant."""
    return f"test/{measure}"
