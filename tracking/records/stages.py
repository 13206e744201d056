"""ZenML's model follows MLflow's aliases: production for the champion, staging for the challenger."""

from __future__ import annotations

from tracking.registry import CHALLENGER, CHAMPION
from tracking.runs import Recorder
from tracking.server import tracking_errors
from tracking.versions import read_aliases

_MAX_ATTEMPTS = 10


def mirror_stages(recorder: Recorder, model_name: str) -> None:
    """Give ZenML's versions the stages that the aliases say, until the aliases are found unchanged.

    Whoever stood in a stage before is archived by ZenML. The aliases are the truth; should they move all the
    time, whoever moves them last mirrors them too.

    Raises:
        TrackingError: the server failed.
    """
    mirrored: dict[str, int] | None = None
    for _ in range(_MAX_ATTEMPTS):
        with tracking_errors(recorder.uri):
            aliases = read_aliases(recorder.client, model_name)
        if aliases == mirrored:
            return
        _set_stages(recorder, model_name, aliases)
        mirrored = aliases


def _set_stages(recorder: Recorder, model_name: str, aliases: dict[str, int]) -> None:
    from zenml import log_metadata
    from zenml.client import Client
    from zenml.enums import ModelStages

    client = Client()
    _create_model(model_name)
    stages = {CHALLENGER: ModelStages.STAGING, CHAMPION: ModelStages.PRODUCTION}
    for alias, stage in stages.items():
        number = aliases.get(alias)
        if number is None:
            continue
        name = _create_version(recorder, model_name, number)
        client.update_model_version(model_name, name, stage=stage, force=True)
        log_metadata(metadata={"mlflow_version": str(number)}, model_name=model_name, model_version=name)
    if CHALLENGER not in aliases:
        for left in client.list_model_versions(model=model_name, stage=ModelStages.STAGING).items:
            client.update_model_version(model_name, left.id, stage=ModelStages.ARCHIVED, force=True)


def _create_model(model_name: str) -> None:
    from zenml.client import Client
    from zenml.exceptions import EntityExistsError

    client = Client()
    if client.list_models(name=model_name, size=1).items:
        return
    try:
        client.create_model(name=model_name, description="Distilled students that passed the gate.")
    except EntityExistsError:  # another promotion was quicker
        return


def _create_version(recorder: Recorder, model_name: str, number: int) -> str:
    """Return the name of ZenML's version of the same number, made where it is missing."""
    from zenml import log_metadata
    from zenml.client import Client
    from zenml.exceptions import EntityExistsError

    client, name = Client(), f"{model_name}-{number}"
    if client.list_model_versions(model=model_name, name=name, size=1).items:
        return name
    with tracking_errors(recorder.uri):
        card = recorder.client.get_model_version(model_name, str(number)).description or ""
    try:
        client.create_model_version(model_name, name=name, description=card[:1000])
        log_metadata(metadata={"model_card": card[:2000]}, model_name=model_name, model_version=name)
    except EntityExistsError:
        pass
    return name
