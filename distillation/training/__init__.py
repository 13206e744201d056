"""Training: a job directory in, a student out."""

from distillation.training.job import Job, JobResult, prepare_job, read_job
from distillation.training.metrics import read_metrics
from distillation.training.run import run_job

__all__ = ["Job", "JobResult", "prepare_job", "read_job", "read_metrics", "run_job"]
