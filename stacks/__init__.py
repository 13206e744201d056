"""Stacks of ZenML: where pipelines run, keep their artifacts and record their experiments."""
