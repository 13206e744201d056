"""`python -m pipelines.NAME -c FILE section.field=value ...`: a run with a quick change, no file edited.

The file and the changes are merged into one file of the same form, which then takes the very road of
`zenml pipeline run`: same checks, same options, same cache.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from distillation.config import set_by_name
from distillation.console import print_anything
from distillation.errors import InputError, SettingsError, one_line
from distillation.reading import parse_yaml
from distillation.stopping import stoppable
from pipelines.guarded import GuardedPipeline, one_line_errors
from pipelines.parameters import read_parameters


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
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{name}", description=(pipeline.__doc__ or ""))
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("-s", "--stack", default="local", help="ZenML stack to run on")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings to change, dotted names")
    chosen = parser.add_mutually_exclusive_group()
    for option, action in (actions or {}).items():
        chosen.add_argument(f"--{option}", action="store_true", help=action.help)
    options = parser.parse_args(arguments)
    print_anything()
    try:
        with stoppable(), one_line_errors():
            _run(pipeline, options, actions or {})
    except click.ClickException as error:
        print(f"Error: {error.format_message()}", file=sys.stderr)
        return 1
    return 0


def _run(pipeline: GuardedPipeline, options: argparse.Namespace, actions: Mapping[str, Action]) -> None:
    content = read_parameters(options.config)
    parameters = content.get("parameters") or {}
    settings = merge_overrides(parameters.get("settings") or {}, options.overrides)
    for option, action in actions.items():
        if getattr(options, option):
            with _active_stack(options.stack):
                action.do(settings)
            return
    merged = {**content, "parameters": {**parameters, "settings": settings}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(options.config).name
        path.write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True), encoding="utf-8")
        with _active_stack(options.stack):
            pipeline.with_options(config_path=str(path))()


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
