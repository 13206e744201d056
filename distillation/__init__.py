"""Student-aware distillation: a large teacher teaches a small student, whatever their tokenizers.

The core library. It knows nothing of ZenML, MLflow or Kaggle; the packages `pipelines`, `steps` and
`tracking` put it to work there.
"""

import sys

if sys.argv[:1] == ["-m"]:  # the process is one of this package's commands, and is about to import the rest
    from distillation.stopping import begin

    begin()
