"""`distil`: one way in to everything. Each of its commands is defined where its work is done.

    distil audit TEACHER STUDENT [TEXT ...]            what two tokenizers have in common
    distil run [-c FILE] [section.field=value ...]     and so on: distil --help

`python -m distillation.audit`, `python -m pipelines.distillation` and the others are the same commands under
their own names. A command is imported when it is asked for: ZenML alone takes longer than anyone waits for
a help text. The commands of pipelines need a checkout, which an installed wheel is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from distillation.commands import exit_code
from distillation.stopping import begin

if TYPE_CHECKING:
    from pipelines.guarded import GuardedPipeline

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIGS = CHECKOUT / "configs"


class Entry(NamedTuple):
    """One command, before it is imported."""

    about: str
    load: Callable[[], click.Command]


def _audit() -> click.Command:
    from distillation.audit.__main__ import command

    return command


def _run() -> click.Command:
    _need_checkout("run")
    from pipelines.command import pipeline_command

    def load() -> GuardedPipeline:
        from pipelines.distillation import distillation_pipeline

        return distillation_pipeline

    return pipeline_command(load, ENTRIES["run"].about, default=CONFIGS / "quickstart.yaml")


def _compare() -> click.Command:
    _need_checkout("compare")
    from pipelines.command import pipeline_command

    def load() -> GuardedPipeline:
        from pipelines.comparison import comparison_pipeline

        return comparison_pipeline

    return pipeline_command(load, ENTRIES["compare"].about, default=CONFIGS / "compare_objectives.yaml")


def _promote() -> click.Command:
    _need_checkout("promote")
    from pipelines.champion import ACTIONS
    from pipelines.command import pipeline_command

    return pipeline_command(
        _promotion, ENTRIES["promote"].about, default=CONFIGS / "promote.yaml", actions=ACTIONS
    )


def _rollback() -> click.Command:
    _need_checkout("rollback")
    from pipelines.champion import ACTIONS
    from pipelines.command import pipeline_command

    return pipeline_command(
        _promotion,
        ENTRIES["rollback"].about,
        default=CONFIGS / "promote.yaml",
        action=ACTIONS["rollback"],
    )


def _promotion() -> GuardedPipeline:
    from pipelines.promotion import promotion_pipeline

    return promotion_pipeline


def _train() -> click.Command:
    from distillation.training.__main__ import command

    return command


def _ui() -> click.Command:
    _need_checkout("ui")
    from stacks.local import ui_command

    return ui_command


def _stack() -> click.Command:
    _need_checkout("stack")
    from stacks.local import command

    return command


ENTRIES = {
    "audit": Entry("Say what two tokenizers have in common, before anything is trained.", _audit),
    "run": Entry("Distil a teacher into a student, with controls, evaluation and report.", _run),
    "compare": Entry("Compare variants and seeds, with controls and intervals.", _compare),
    "promote": Entry("Make the best student the champion, if it passes the gate.", _promote),
    "rollback": Entry("Give the alias champion back to the version before.", _rollback),
    "train": Entry("Train the student of a job directory, or go on with it.", _train),
    "ui": Entry("Open MLflow on all runs.", _ui),
    "stack": Entry("Register the ZenML stack `local`.", _stack),
}


def _need_checkout(name: str) -> None:
    """Make the packages of the application importable, which only a checkout has.

    Raises:
        ClickException: this is an installed wheel.
    """
    if not CONFIGS.is_dir():
        raise click.ClickException(
            f"distil {name}: needs a checkout of the repository, with pip install --editable . in it; "
            "a wheel has distil audit and distil train"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))


class Distil(click.Group):
    """The group of all commands, none of which it imports to name them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(ENTRIES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        return ENTRIES[name].load() if name in ENTRIES else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the sentences that stand here."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.about) for name, entry in ENTRIES.items()])


@click.group(cls=Distil)
@click.version_option(package_name="student-aware-distillation", prog_name="distil")
def distil() -> None:
    """Teach a small language model with a large one, also when the two use different tokenizers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `distil` and return the exit code."""
    begin()  # the process is one command from here to its end
    return exit_code(distil, arguments, "distil")
