"""MLflow as a view of what happened: runs, live metrics, artifacts, models, the registry.

`metrics.jsonl` of a job directory is the truth; everything here can be sent again without doubling anything.
"""
