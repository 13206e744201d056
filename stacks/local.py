"""Registers the stack `local`: this process, a folder on this disk, MLflow in a database beside it.

    python -m stacks.local          register it; running it again changes nothing
    python -m stacks.local --ui     open MLflow on the runs of the stack

The MLflow store lies inside the artifact store, so that a cached step and the run that it recorded live and
die together. The folder `.zen` marks this directory as the root that ZenML resolves step sources from.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from distillation.console import print_anything
from distillation.errors import DistillationError, TrackingError, one_line
from distillation.files import storing
from distillation.locks import exclusive

STACK_NAME = "local"
TRACKER_NAME = "mlflow_local"


def register_local_stack(root: Path | None = None) -> bool:
    """Make sure that the stack exists; return whether it had to be registered.

    Raises:
        StorageError: ZenML's folder cannot be written.
        TrackingError: a stack of this name has other components.
    """
    os.environ.setdefault("ZENML_ANALYTICS_OPT_IN", "false")
    if root is not None:
        with storing(root / ".zen"):
            (root / ".zen").mkdir(exist_ok=True)
    from zenml.utils.io_utils import get_global_config_directory

    # ZenML makes its configuration and its database without a lock, and two first starts break each other.
    folder = Path(get_global_config_directory())
    with storing(folder, "ZENML_CONFIG_PATH"):
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder, "ZenML's folder", wait=True, setting="ZENML_CONFIG_PATH"):
            return _register()


def _register() -> bool:
    from zenml.client import Client
    from zenml.enums import StackComponentType

    client = Client()
    stacks = client.list_stacks(name=STACK_NAME, size=1).items
    if stacks:
        _check_components(stacks[0].components)
        return False
    trackers = client.list_stack_components(
        name=TRACKER_NAME, type=StackComponentType.EXPERIMENT_TRACKER, size=1
    ).items
    tracker = (
        trackers[0]
        if trackers
        else client.create_stack_component(
            name=TRACKER_NAME,
            flavor="mlflow",
            component_type=StackComponentType.EXPERIMENT_TRACKER,
            configuration={},
        )
    )
    client.create_stack(
        name=STACK_NAME,
        components={
            StackComponentType.ORCHESTRATOR: "default",
            StackComponentType.ARTIFACT_STORE: "default",
            StackComponentType.EXPERIMENT_TRACKER: tracker.id,
        },
    )
    return True


def _check_components(components: object) -> None:
    wanted = {"orchestrator": "local", "artifact_store": "local", "experiment_tracker": "mlflow"}
    found = {
        kind.value: parts[0].flavor_name
        for kind, parts in components.items()  # type: ignore[attr-defined]
        if parts
    }
    wrong = {kind: found.get(kind, "none") for kind, flavor in wanted.items() if found.get(kind) != flavor}
    if wrong:
        listed = ", ".join(f"{kind} {flavor}" for kind, flavor in wrong.items())
        raise TrackingError(
            f"stack {STACK_NAME} exists with {listed}; rename it (zenml stack rename {STACK_NAME} NAME) "
            "and run python -m stacks.local again"
        )


def local_tracking_uri() -> str:
    """Return the address of the MLflow store of the stack `local`."""
    from zenml.artifact_stores import LocalArtifactStore
    from zenml.client import Client

    components = {kind.value: parts[0] for kind, parts in Client().get_stack(STACK_NAME).components.items()}
    configured = components["experiment_tracker"].configuration.get("tracking_uri")
    store: Any = LocalArtifactStore.from_model(components["artifact_store"])
    return str(configured or f"sqlite:///{os.path.abspath(os.path.join(store.path, 'mlflow.db'))}")


def main(arguments: list[str] | None = None) -> int:
    """Register the stack; with `--ui`, show its runs. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stacks.local", description=__doc__.splitlines()[0])
    parser.add_argument("--ui", action="store_true", help="open MLflow on the runs of the stack")
    parser.add_argument("--host", default="127.0.0.1", help="address that MLflow listens on")
    parser.add_argument("--port", type=int, default=5000, help="port that MLflow listens on")
    options = parser.parse_args(arguments)
    print_anything()
    try:
        is_new = register_local_stack(Path.cwd())
        if not options.ui:
            print(f"stack {STACK_NAME} {'registered' if is_new else 'is there'}")
            return 0
        uri = local_tracking_uri()
    except DistillationError as error:
        print(f"Error: {one_line(error)}", file=sys.stderr)
        return 1
    # The plain address opens MLflow's view of prompts and traces.
    page = f"http://{options.host}:{options.port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow on {page} shows {uri}", flush=True)
    place = ["--backend-store-uri", uri, "--host", options.host, "--port", str(options.port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *place])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
