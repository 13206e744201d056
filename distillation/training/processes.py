"""Several processes that train one job: who is the first, who may write, where they meet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillation.locks import exclusive


def claim_gpu(device: str) -> None:
    """Let `cuda` mean this process's own GPU where `torchrun` or `accelerate launch` started several.

    Args:
        device: as decided for the job.
    """
    import torch

    if device == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def is_first_process() -> bool:
    """Say whether this is the one of several processes that keeps the house."""
    return os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_everyone(device: str) -> None:
    """Meet the other processes of `torchrun` or `accelerate launch`, if there are any."""
    if num_processes() > 1:
        from accelerate import PartialState

        claim_gpu(device)
        PartialState(cpu=device == "cpu").wait_for_everyone()


@contextmanager
def only_writer(directory: Path, wait: bool) -> Iterator[None]:
    """Let no other run write in `directory`; several processes of one run are one writer, the first locks."""
    if not is_first_process():
        yield
        return
    with exclusive(directory, "job directory", wait=wait):
        yield
