"""`python -m distillation.training JOB_DIR`: train the student of a job directory, or go on with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distillation.console import leave_bars, print_anything
from distillation.errors import DistillationError, one_line


def main(arguments: list[str] | None = None) -> int:
    """Run the job and print where the student is; a user's error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m distillation.training", description=__doc__)
    parser.add_argument("job_dir", type=Path, help="directory that prepare_job wrote")
    parser.add_argument(
        "--wait",
        action="store_true",
        default=None,
        help="wait while another process trains in it (training.when_busy: wait)",
    )
    options = parser.parse_args(arguments)
    print_anything()
    from distillation.training.run import run_job

    try:
        result = run_job(options.job_dir, wait=options.wait)
    except DistillationError as error:
        leave_bars()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"student: {result.student_dir}")
    for name, value in sorted(result.metrics.items()):
        print(f"  {name} = {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
