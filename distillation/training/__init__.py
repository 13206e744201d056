"""Training: a job directory in, a student out."""

from distillation.training.job import Job, JobResult, prepare_job, read_job
from distillation.training.run import run_job

__all__ = ["Job", "JobResult", "prepare_job", "read_job", "run_job"]
