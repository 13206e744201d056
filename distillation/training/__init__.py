"""Training: a job directory in, a student out."""
