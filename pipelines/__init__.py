"""ZenML pipelines: wiring only. Work is done by the steps, and by the core library below them."""

import sys

from distillation.stopping import begin, is_zenml_command

if sys.argv[:1] == ["-m"] or is_zenml_command():  # the process is a pipeline's run from here to its end
    begin()
