"""Registers the stack `local`: this process, a folder on this disk, MLflow in a database beside it.

    distil stack     register it; running it again changes nothing (also python -m stacks.local)
    distil ui        open MLflow on the runs of the stack (also python -m stacks.local --ui)

The MLflow store lies inside the artifact store, so that a cached step and the run that it recorded live and
die together. The folder `.zen` marks this directory as the root that ZenML resolves step sources from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from distillation.commands import Command, exit_code
from distillation.errors import TrackingError
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
            "and run distil stack again"
        )


def local_tracking_uri() -> str:
    """Return the address of the MLflow store of the stack `local`."""
    from zenml.artifact_stores import LocalArtifactStore
    from zenml.client import Client

    components = {kind.value: parts[0] for kind, parts in Client().get_stack(STACK_NAME).components.items()}
    configured = components["experiment_tracker"].configuration.get("tracking_uri")
    store: Any = LocalArtifactStore.from_model(components["artifact_store"])
    return str(configured or f"sqlite:///{os.path.abspath(os.path.join(store.path, 'mlflow.db'))}")


@click.command("stack", cls=Command)
@click.option("--ui", is_flag=True, help="Open MLflow on the runs of the stack.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that MLflow listens on.")
@click.option("--port", default=5000, show_default=True, help="Port that MLflow listens on.")
def command(ui: bool, host: str, port: int) -> None:
    """Register the stack `local`, and mark this folder as the root that ZenML resolves sources from.

    Running it again changes nothing.
    """
    is_new = register_local_stack(Path.cwd())
    if ui:
        open_mlflow(host, port)
    print(f"stack {STACK_NAME} {'registered' if is_new else 'is there'}")


@click.command("ui", cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that MLflow listens on.")
@click.option("--port", default=5000, show_default=True, help="Port that MLflow listens on.")
def ui_command(host: str, port: int) -> None:
    """Open MLflow on the runs of the stack `local`."""
    register_local_stack()
    open_mlflow(host, port)


def open_mlflow(host: str, port: int) -> NoReturn:
    """Become MLflow's server, on the store of the stack."""
    uri = local_tracking_uri()
    # The plain address opens MLflow's view of prompts and traces.
    print(
        f"MLflow on http://{host}:{port}/#/experiments?workflowType=machine_learning shows {uri}", flush=True
    )
    place = ["--backend-store-uri", uri, "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *place])


def main(arguments: list[str] | None = None) -> int:
    """Register the stack; with `--ui`, show its runs. Returns the exit code."""
    return exit_code(command, arguments, "python -m stacks.local")


if __name__ == "__main__":
    raise SystemExit(main())
