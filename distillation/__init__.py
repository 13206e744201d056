"""Student-aware distillation: a large teacher teaches a small student, whatever their tokenizers.

The core library. It knows nothing of ZenML, MLflow or Kaggle; the packages `pipelines`, `steps` and
`tracking` put it to work there.
"""
