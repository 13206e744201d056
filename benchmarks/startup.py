"""Where the time of a pipeline run goes, step by step, and how long each command takes to start.

    python -m benchmarks.startup [-c configs/quickstart.yaml] [--json] [training.max_steps=30 ...]

The pipeline runs once, uncached, in a fresh ZenML home and folder. A thread looks at the main thread's stack
every few milliseconds and books the time since its last look: to the step whose function, inputs or outputs
ZenML is at, and to what the innermost telling frame belongs to. "Models" is forward and backward passes, the
loss with its targets, the optimiser, and measuring; "imports" is anything below the import system. Commands
are started in fresh processes, the fastest of three.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 0.01
OUTSIDE = "before and after"
MODELS = "models"
PLACES = (
    (MODELS, ("/torch/nn/", "/torch/autograd/", "/torch/optim/", "/torch/utils/checkpoint")),
    (MODELS, ("/transformers/models/", "/transformers/integrations/", "/transformers/generation/")),
    (
        MODELS,
        (
            "/distillation/kernels/",
            "/distillation/losses/",
            "/distillation/teachers/live",
            "/distillation/evaluation/",
        ),
    ),
    (MODELS, ("/distillation/aligners/", "/distillation/models/lm_head")),
    ("data", ("/distillation/corpus/", "/distillation/tokenizers/", "/distillation/audit/")),
    ("data", ("/tokenizers/", "/datasets/", "/great_expectations/", "/transformers/tokenization")),
    ("figures", ("/matplotlib/", "/distillation/report/")),
    ("MLflow", ("/mlflow/", "/tracking/")),
    ("ZenML", ("/zenml/",)),
    ("Trainer", ("/transformers/", "/accelerate/", "/distillation/training/")),
)
"""Group -> parts of file names; the first that fits a frame. Frames are looked at from the innermost out."""
GROUPS = (MODELS, "Trainer", "data", "figures", "MLflow", "ZenML", "imports", "other")
COMMANDS = {
    "python -m pipelines.distillation --help": ("-m", "pipelines.distillation", "--help"),
    "python -m distillation.training --help": ("-m", "distillation.training", "--help"),
    "python -m distillation.audit --help": ("-m", "distillation.audit", "--help"),
    "zenml --help": ("-m", "zenml.cli.cli", "--help"),
    "import torch": ("-c", "import torch"),
    "import transformers": ("-c", "import transformers"),
    "import zenml": ("-c", "import zenml"),
    "import mlflow": ("-c", "import mlflow"),
}


class Sampler(threading.Thread):
    """Books the main thread's time by step and group until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.main = threading.main_thread().ident
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.stopped = threading.Event()

    def run(self) -> None:
        """Look at the stack again and again."""
        last = time.perf_counter()
        while not self.stopped.wait(INTERVAL):
            frame = sys._current_frames().get(self.main or 0)
            now = time.perf_counter()
            if frame is not None:
                step, group = place(frame)
                self.seconds[step][group] += now - last
            last = now


def frames_of(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and its callers, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(frame: FrameType) -> tuple[str, str]:
    """Return the step that a stack is in, and the group that it belongs to."""
    step, group, imports = OUTSIDE, "", False
    for one in frames_of(frame):
        name = one.f_code.co_filename
        imports = imports or name.startswith("<frozen importlib")
        group = group or next((group for group, parts in PLACES if any(part in name for part in parts)), "")
        if name.endswith("zenml/orchestrators/step_launcher.py"):
            step = getattr(one.f_locals.get("self"), "_invocation_id", step)
    return step, "imports" if imports else group or "other"


def profile(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the pipeline under the sampler and return seconds by step and group."""
    sampler = Sampler()
    sampler.start()
    started = time.perf_counter()
    from pipelines import distillation
    from pipelines.command import run_command

    outcome = run_command(distillation.distillation_pipeline, ["-c", config, *overrides])
    sampler.stopped.set()
    sampler.join()
    if outcome:
        raise SystemExit(outcome)
    return {"seconds": time.perf_counter() - started, "steps": sampler.seconds}


def profile_apart(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Run `profile` in a fresh process, ZenML home and working folder."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "profile.json")
        environment = {
            **os.environ,
            "ZENML_CONFIG_PATH": f"{folder}/zenml",
            "ZENML_ANALYTICS_OPT_IN": "false",
            "PYTHONPATH": str(ROOT),
        }
        command = [
            sys.executable,
            "-m",
            "benchmarks.startup",
            "--keep",
            str(kept),
            "-c",
            config,
            *overrides,
            f"training.output_dir={folder}/jobs",
        ]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
        return json.loads(kept.read_text())


def command_seconds(arguments: Sequence[str]) -> float:
    """Return the fastest of three starts of a Python process, in seconds."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return min(found)


def table(result: dict[str, Any]) -> str:
    """Return both tables as Markdown."""
    steps: dict[str, dict[str, float]] = result["steps"]
    lines = ["| step | seconds | " + " | ".join(GROUPS) + " |", "|---" + "|---:" * (len(GROUPS) + 1) + "|"]
    total = {group: sum(step.get(group, 0.0) for step in steps.values()) for group in GROUPS}
    for name, groups in [*steps.items(), ("**all**", total)]:
        cells = [f"{groups[group]:.1f}" if groups.get(group, 0.0) >= 0.05 else "" for group in GROUPS]
        lines.append(f"| {name} | {sum(groups.values()):.1f} | " + " | ".join(cells) + " |")
    share = total[MODELS] / sum(total.values())
    lines += ["", f"{100 * share:.0f} % of {sum(total.values()):.0f} s is spent in the models.", ""]
    lines += ["| command | seconds to start |", "|---|---:|"]
    lines += [f"| `{name}` | {seconds:.1f} |" for name, seconds in result["commands"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the tables")
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    if options.keep is not None:
        options.keep.write_text(json.dumps(profile(options.config, options.overrides)))
        return
    result = profile_apart(options.config, options.overrides)
    result["commands"] = {name: command_seconds(arguments) for name, arguments in COMMANDS.items()}
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
