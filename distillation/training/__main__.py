"""`python -m distillation.training JOB_DIR`: train the student of a job directory, or go on with it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distillation.commands import Command, exit_code


@click.command(cls=Command)
@click.argument("job_dir", type=click.Path(path_type=Path))
@click.option(
    "--wait", is_flag=True, help="Wait while another process trains in it (training.when_busy: wait)."
)
def command(job_dir: Path, wait: bool) -> None:
    """Train the student of a job directory, or go on with it.

    JOB_DIR is a directory that a run prepared. It can be killed at any instant and started again.
    """
    from distillation.training.run import run_job

    result = run_job(job_dir, wait=wait or None)
    print(f"student: {result.student_dir}")
    for name, value in sorted(result.metrics.items()):
        print(f"  {name} = {value:.4g}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job, print where the student is, and return the exit code."""
    return exit_code(command, arguments, "python -m distillation.training")


if __name__ == "__main__":
    sys.exit(main())
