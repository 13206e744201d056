"""Stacks of ZenML: where pipelines run, keep their artifacts and record their experiments."""

import sys

from distillation.stopping import begin

if sys.argv[:1] == ["-m"]:
    begin()
