"""Student-aware distillation: a large teacher teaches a small student, whatever their tokenizers.

    from distillation import audit, distil

The core library. It knows nothing of ZenML, MLflow or Kaggle; the packages `pipelines`, `steps` and
`tracking` put it to work there. Both functions are loaded on first use, so that the import stays light.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillation.audit.pair import audit
    from distillation.experiment.distil import distil

if sys.argv[:1] == ["-m"]:  # the process is one of this package's commands, and is about to import the rest
    from distillation.stopping import begin

    begin()

__all__ = ["audit", "distil"]


def __getattr__(name: str) -> Any:
    if name == "distil":
        return import_module("distillation.experiment.distil").distil
    if name == "audit":  # the room of this name, which can be called
        return import_module("distillation.audit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
