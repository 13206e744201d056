"""`distil run -c configs/quickstart.yaml training.max_steps=6`: a run with a quick change, no file edited.

`python -m pipelines.NAME` is the same command under another name, and there is one of each pipeline.

The file and the changes are merged into one file of the same form, which then takes the very road of
`zenml pipeline run`: same checks, same options, same cache.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from distillation.commands import Command, exit_code
from distillation.config import set_by_name
from distillation.errors import InputError, SettingsError, one_line
from distillation.reading import parse_yaml
from distillation.stopping import stoppable
from pipelines.parameters import read_parameters

if TYPE_CHECKING:
    from pipelines.guarded import GuardedPipeline


def merge_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `settings` with dotted overrides such as `training.batch_size=4` on top.

    A value is read as in a file: a list or a mapping replaces what was there, and nothing is filled in. Names
    and values are checked later, with the whole.

    Raises:
        SettingsError: an override is not of the form NAME=VALUE.
    """
    merged = copy.deepcopy(dict(settings))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name.strip():
            raise SettingsError(
                f"override {override!r}: must be NAME=VALUE, for example training.batch_size=4"
            )
        try:
            set_by_name(merged, name.strip(), parse_yaml(text, "its value"))
        except (InputError, ValueError) as error:
            raise SettingsError(f"override {override!r}: cannot be applied ({one_line(error)})") from None
    return merged


@dataclass(frozen=True)
class Action:
    """Something that a command does instead of running its pipeline."""

    do: Callable[[Mapping[str, Any]], None]
    """Takes the raw settings; the stack is active."""
    help: str


def run_command(
    pipeline: GuardedPipeline,
    arguments: Sequence[str] | None = None,
    actions: Mapping[str, Action] | None = None,
) -> int:
    """Parse the command line, run the pipeline, or the action that was asked for, and return the exit code.

    Each of `actions` is an option of its name, at most one of which may be given.
    """
    name = pipeline.name.removesuffix("_pipeline")
    command = pipeline_command(lambda: pipeline, pipeline.__doc__ or "", actions=actions or {})
    return exit_code(command, arguments, f"python -m pipelines.{name}")


def pipeline_command(
    load: Callable[[], GuardedPipeline],
    about: str,
    *,
    default: Path | None = None,
    actions: Mapping[str, Action] | None = None,
    action: Action | None = None,
) -> click.Command:
    """Return the command that runs a pipeline on a file and changes of it.

    Args:
        load: returns the pipeline; called when it is going to run, since its imports take seconds.
        about: the command's help.
        default: the file where none is named; without it, one must be.
        actions: what can be asked for instead, each by an option of its name.
        action: what is done instead, whatever is asked for.
    """

    def run(config: str | None, stack: str, overrides: tuple[str, ...], **asked: bool) -> None:
        wanted = [name for name, is_wanted in asked.items() if is_wanted]
        if len(wanted) > 1:
            raise click.UsageError(f"give one of {' and '.join(f'--{name}' for name in wanted)}")
        if config is None:
            config = os.path.relpath(str(default))
            print(f"no file named with -c: taking {config}", file=sys.stderr)
        chosen = (actions or {})[wanted[0]] if wanted else action
        from pipelines.guarded import one_line_errors

        with stoppable(), one_line_errors():
            _run(load, chosen, config, stack, overrides)

    parameters: list[click.Parameter] = [
        click.Option(
            ["-c", "--config"],
            required=default is None,
            metavar="FILE",
            help="YAML file, see configs/." + (f"  [default: configs/{default.name}]" if default else ""),
        ),
        click.Option(
            ["-s", "--stack"],
            default="local",
            metavar="NAME",
            show_default=True,
            help="ZenML stack to run on.",
        ),
        click.Argument(["overrides"], nargs=-1, metavar="[NAME=VALUE]..."),
    ]
    parameters += [
        click.Option([f"--{name}"], is_flag=True, help=one.help) for name, one in (actions or {}).items()
    ]
    about += "\n\nNAME=VALUE changes a setting of the file, by its dotted name: training.batch_size=4"
    return Command(None, callback=run, params=parameters, help=about)


def _run(
    load: Callable[[], GuardedPipeline],
    action: Action | None,
    config: str,
    stack: str,
    overrides: Sequence[str],
) -> None:
    content = read_parameters(config)
    parameters = content.get("parameters") or {}
    settings = merge_overrides(parameters.get("settings") or {}, overrides)
    if action is not None:
        with _active_stack(stack):
            action.do(settings)
        return
    merged = {**content, "parameters": {**parameters, "settings": settings}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(config).name
        path.write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True), encoding="utf-8")
        with _active_stack(stack):
            load().with_options(config_path=str(path))()


@contextlib.contextmanager
def _active_stack(stack: str) -> Iterator[None]:
    """Make the stack the active one for a while; the local one is registered where it is missing."""
    from zenml.cli.utils import temporary_active_stack
    from zenml.client import Client
    from zenml.utils import source_utils

    from stacks.local import STACK_NAME, register_local_stack

    root = Path(__file__).resolve().parents[1]
    source_utils.set_custom_source_root(str(root))
    if stack == STACK_NAME:
        register_local_stack()  # opens ZenML's store, which may be new, under a lock
    elif not Client().list_stacks(name=stack, size=1).items:
        raise SettingsError(
            f"stack {stack!r}: unknown; list them with zenml stack list, or use -s {STACK_NAME}"
        )
    with temporary_active_stack(stack):
        yield
