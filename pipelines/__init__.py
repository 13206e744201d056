"""ZenML pipelines: wiring only. Work is done by the steps, and by the core library below them."""

import sys

from distillation.stopping import begin, started_as

if sys.argv[:1] == ["-m"] or started_as("zenml"):  # the process is a pipeline's run from here to its end
    begin()
