"""Pushing an exported champion to a model hub, with the hub's own client.

The token comes from the environment or from a login; it is in no setting, no message and no artifact.
"""

from __future__ import annotations

from pathlib import Path

from distillation.config import PromotionSettings
from distillation.errors import PublishError, SettingsError, one_line, shorten
from tracking.export import Exported

# Weights under another layout that stay would be what transformers loads.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]


def check_hub(settings: PromotionSettings) -> None:
    """See that a push can begin: a token is there, and the client is not told to stay offline.

    Raises:
        SettingsError: one of them is not so.
    """
    if settings.hub_repository is None:
        return
    from huggingface_hub import constants, get_token

    begin = f"hub_repository = {settings.hub_repository}:"
    if constants.HF_HUB_OFFLINE:
        raise SettingsError(f"{begin} HF_HUB_OFFLINE forbids it; unset it, or set hub_repository to null")
    if get_token() is None:
        raise SettingsError(
            f"{begin} there is no token for the hub; log in with hf auth login or set HF_TOKEN, or set "
            "hub_repository to null"
        )


def push_to_hub(folder: Path, exported: Exported, settings: PromotionSettings) -> str:
    """Upload an export folder in one commit, replacing the weights that were there; return its address.

    Raises:
        PublishError: the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # the transport's own, whichever the client is built on

    name = settings.hub_repository or ""
    try:
        api = HfApi()
        repository = api.create_repo(
            name, repo_type="model", private=settings.hub_private, exist_ok=True
        ).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{exported.model_name} version {exported.version}: {exported.run_name}",
            delete_patterns=_REPLACED,
        )
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PublishError(
            f"hub_repository = {name}: not pushed ({shorten(one_line(error))}); "
            f"version {exported.version} is the champion all the same, push it again with --publish"
        ) from error
    return f"{api.endpoint}/{repository}"
