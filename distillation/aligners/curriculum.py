"""A schedule: one aligner after another along training.

A stage ends at a share of the steps. `shared` first and `prefix` after, for example, begins with the
positions where both tokenizers agree and goes on with all of them. The stages have nothing in common but the
vocabularies.

Invariant: saved and loaded, each stage gives the same targets to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.aligners.base import Aligner, Rows, Targets
from distillation.errors import AlignmentError
from distillation.files import write_json
from distillation.tokenizers.spans import Alignment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distillation.tokenizers.pairs import EncodedPair

STAGES_FILE = "schedule.json"


class ScheduledAligner(Aligner):
    """Passes from one aligner to the next as training goes on.

    Args:
        stages: the aligners in order.
        ends: share of the training at which each one ends, rising, the last one 1.
    """

    name = "schedule"

    def __init__(self, stages: Sequence[Aligner], ends: Sequence[float]) -> None:
        details = {
            "stages": [[stage.name, end, stage.details] for stage, end in zip(stages, ends, strict=True)]
        }
        super().__init__(stages[0].num_teacher_rows, stages[0].num_student_rows, {}, details)
        self._stages, self.ends = tuple(stages), tuple(ends)

    @property
    def stages(self) -> tuple[Aligner, ...]:
        """The aligners in order."""
        return self._stages

    def stage_at(self, progress: float) -> tuple[int, Aligner]:
        """See `Aligner.stage_at`."""
        index = next((i for i, end in enumerate(self.ends) if progress < end), len(self.ends) - 1)
        return index, self._stages[index]

    def align(self, pairs: Sequence[EncodedPair]) -> Alignment:
        """Return the alignment of the last stage, which training ends with."""
        return self._stages[-1].align(pairs)

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """Return the targets of the last stage, which training ends with."""
        return self._stages[-1].targets(teacher_log_probs_NU, rows)

    def to(self, device: torch.device | str) -> ScheduledAligner:
        """Return this aligner with the tables of all stages on `device`."""
        return ScheduledAligner([stage.to(device) for stage in self._stages], self.ends)

    def save(self, directory: str | Path) -> None:
        """Write each stage into a folder of its own, and the order of them last."""
        folder = Path(directory)
        for index, stage in enumerate(self._stages):
            stage.save(folder / str(index))
        write_json(folder / STAGES_FILE, {"ends": self.ends})


def load_schedule(directory: str | Path, load_stage: Callable[[Path], Aligner]) -> ScheduledAligner:
    """Read what `ScheduledAligner.save` wrote; `load_stage` reads one stage.

    Raises:
        AlignmentError: the directory is damaged, or a stage is.
    """
    folder = Path(directory)
    try:
        ends = [float(end) for end in json.loads((folder / STAGES_FILE).read_text(encoding="utf-8"))["ends"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignmentError(
            f"aligner directory {folder}: {STAGES_FILE} is damaged ({error}); build the aligner again"
        ) from None
    return ScheduledAligner([load_stage(folder / str(index)) for index in range(len(ends))], ends)
