"""Asking the hub without waiting longer than a user would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from distillation.errors import reason_of

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Answer = TypeVar("Answer")


def answer_within(ask: Callable[[], Answer], seconds: float) -> Answer | Exception | None:
    """Return what `ask` returns or raises; None if it has not done either within `seconds`."""
    answers: list[Answer | Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # any network failure; the caller's message depends on its type
            answers.append(error)

    # A thread, because a name server that is silent blocks beyond any timeout of the client; it is left
    # behind rather than the user kept waiting.
    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def model_on_hub(name: str, revision: str | None, seconds: float) -> ModelInfo | str:
    """Return what the hub says of a model, or in words why it says nothing.

    Raises:
        HFValidationError: no model of the hub can have this name.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer = answer_within(lambda: HfApi().model_info(name, revision=revision, timeout=seconds), seconds)
    hub = f"the hub {constants.ENDPOINT}"
    if answer is None:
        return f"{hub} does not answer within {seconds:g} s"
    if isinstance(answer, HFValidationError):
        raise answer
    if isinstance(answer, RepositoryNotFoundError):
        return f"{hub} has no public model of this name"
    if isinstance(answer, RevisionNotFoundError):
        return f"{hub} has no revision {revision!r} of it"
    if isinstance(answer, Exception):
        return f"{hub} cannot be reached ({type(answer).__name__})"
    return answer


class HubReach:
    """Whether the hub answers: asked once, then remembered, so that several hub sources cost one wait."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._answer: tuple[str | None] | None = None

    def why_unreachable(self) -> str | None:
        """Return the reason why the hub cannot be used, or None if it answers."""
        if self._answer is None:
            self._answer = (_ask_endpoint(self._timeout),)
        return self._answer[0]


def _ask_endpoint(timeout: float) -> str | None:
    """Ask the endpoint for anything at all; any answer below status 500 will do."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    endpoint = constants.ENDPOINT
    remedy = "check the network or HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use only cached datasets"

    def ask() -> int:
        return int(get_session().head(endpoint, timeout=timeout, follow_redirects=False).status_code)

    answer = answer_within(ask, timeout)
    if answer is None:
        return f"hub {endpoint} does not answer within hub_timeout = {timeout:g} s; {remedy}"
    if isinstance(answer, Exception):
        return f"hub {endpoint} does not answer ({reason_of(answer)}); {remedy}"
    return f"hub {endpoint} answers with status {answer}; {remedy}" if answer >= 500 else None
