"""Is the realised chain moved in the right places? An ablation of the aligner `prefix`.

    python -m benchmarks.prefix_chain [NAME=VALUE ...] [--seeds 0 1 2] [--json]

`prefix` moves the chain value of the text's own teacher tokens to the text's own student token, at every row:
phi does not know how the student cuts the text at hand. The alternatives are to move it only where the
student's token runs past the teacher's boundary, where the target would contradict the text otherwise, and
not at all. Each student is trained in a process of its own, by forward KL alone beside 0.1 of cross-entropy,
from the same start on the same windows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.objectives import Comparison
from benchmarks.seeds import interval, read_settings

RULES = {
    "every row": "at every row (the rule)",
    "past": "only where the student's token runs past",
    "never": "never",
}


def train_with(rule: str, job_dir: Path) -> None:
    """Train the student of `job_dir` with a changed rule; for a process of its own, as it patches a class."""
    import torch
    from torch import Tensor

    from distillation.aligners.base import Rows
    from distillation.aligners.prefix import PrefixAligner
    from distillation.training.run import run_job

    move = PrefixAligner._move_chain

    def moved(self: PrefixAligner, mass_VN: Tensor, log_prob_N: Tensor, unit_N: Tensor, rows: Rows) -> None:
        before_VN = mass_VN.clone()
        move(self, mass_VN, log_prob_N, unit_N, rows)
        kept_N = torch.ones(len(rows), dtype=torch.bool) if rule == "never" else rows.num_tail_N == 0
        mass_VN[:, kept_N] = before_VN[:, kept_N]

    if rule != "every row":
        PrefixAligner._move_chain = moved  # type: ignore[method-assign]
    run_job(job_dir)


def measure(comparison: Comparison, rule: str, seed: int) -> float:
    """Return the bits per byte of the student of one rule and seed."""
    key = f"{rule} | {seed}"
    if key not in comparison.results():
        change = {"objective": {"terms": {"cross_entropy": 0.1, "forward_kl": 0.9}, "gradient_shares": 0}}
        job_dir = comparison.prepare(change, seed, folder=comparison.folder / rule.replace(" ", "_"))
        command = [sys.executable, "-m", "benchmarks.prefix_chain", "--job", str(job_dir), "--rule", rule]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
        comparison.keep(key, comparison.bits(job_dir / "student"))
    return comparison.results()[key]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ablation and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix_chain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/prefix_chain"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the table")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rule", choices=RULES, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    if options.job is not None:
        train_with(options.rule, options.job)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(read_settings(options.config, options.overrides), options.folder)
    found = {rule: [measure(comparison, rule, seed) for seed in options.seeds] for rule in RULES}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print("| the chain is moved | bits per byte ± 95 % | behind the rule ± 95 % |\n|---|---:|---:|")
    for rule, values in found.items():
        mean, half = interval(values)
        behind, behind_half = interval([a - b for a, b in zip(values, found["every row"], strict=True)])
        shown = "–" if rule == "every row" else f"{behind:+.4f} ± {behind_half:.4f}"
        print(f"| {RULES[rule]} | {mean:.4f} ± {half:.4f} | {shown} |")


if __name__ == "__main__":
    main()
