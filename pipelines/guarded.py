"""A pipeline that checks its settings before any work, fails in one line, and reports at the end.

`zenml pipeline run` and `python -m pipelines.NAME` both end in `Pipeline.__call__`, so this is the one place
where a `DistillationError`, whether of the settings, of the preflight check or of a step, becomes a line on
the terminal and exit code 1; so does a disk that takes nothing more. Ctrl-C and SIGTERM are one line as well.
Anything else is a fault of this software and keeps its traceback, which ZenML stores without secrets. It is
also the one place that runs when every step came from the cache: the summary is printed from here.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic import ValidationError
from zenml.enums import ExecutionMode
from zenml.pipelines.pipeline_definition import Pipeline
from zenml.utils import env_utils

from distillation.commands import ReportedError
from distillation.config import Section
from distillation.console import leave_bars, print_anything
from distillation.errors import DistillationError, SettingsError
from distillation.files import storage_error
from distillation.stopping import Stopped, stoppable, working_on
from pipelines.killed import close_killed_runs, marked_as_running
from pipelines.parameters import read_parameters
from pipelines.places import places_of
from pipelines.scrubbed import stored_without_secrets

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse

Before = Callable[[Mapping[str, Any]], Section]
After = Callable[["PipelineRunResponse", Any], None]
Failed = Callable[["PipelineRunResponse | None", Any], None]

_SIGNALS = "zenml.orchestrators.signal_handler"
"""Says that a signal came; the line of a stop says it."""


class GuardedPipeline(Pipeline):
    """A ZenML pipeline whose only parameter is `settings`.

    Args:
        before: takes the raw settings, checks them and all that can be checked early, returns them parsed.
        after: takes the finished run and the parsed settings, and tells the user.
    """

    def __init__(
        self, *, name: str, entrypoint: Callable[..., Any], before: Before, after: After, **options: Any
    ) -> None:
        super().__init__(name=name, entrypoint=entrypoint, execution_mode=ExecutionMode.FAIL_FAST, **options)
        self._before = before
        self._after = after

    def with_options(self, *args: Any, **kwargs: Any) -> Pipeline:
        """Return a copy with the options of a file; a file that cannot be used is one line."""
        path = kwargs.get("config_path")
        print_anything()
        with one_line_errors():
            try:
                return super().with_options(*args, **kwargs)
            except ValidationError as report:
                keys = ", ".join(sorted({str(error["loc"][0]) for error in report.errors() if error["loc"]}))
                raise SettingsError(
                    f"file {path}: {keys}: unknown or ill-formed; settings stand under parameters: settings:"
                ) from None

    def _parse_config_file(self, config_path: str | None, matcher: list[str]) -> dict[str, Any]:
        """Read the file as `python -m pipelines.NAME` does, whatever the encoding of the terminal."""
        if not config_path:
            return super()._parse_config_file(config_path, matcher)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.yaml"
            plain.write_text(yaml.safe_dump(read_parameters(config_path), sort_keys=False), encoding="ascii")
            return super()._parse_config_file(str(plain), matcher)

    def _compile(self, *args: Any, **kwargs: Any) -> Any:
        """Compile with the settings that were checked: nothing is put in place of `${NAME}`."""
        with _texts_as_they_stand():
            return super()._compile(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> PipelineRunResponse | None:
        """Check, close what an earlier process left when it was killed, run, report.

        Raises:
            ReportedError: a `DistillationError` anywhere on the way.
        """
        print_anything()
        settings: Section | None = None
        with stoppable(), one_line_errors(lambda: places_of(settings)):
            settings = self._before(self._raw_settings(*args, **kwargs))
            close_killed_runs()
            with working_on(_step_name), stored_without_secrets():
                run = self._run_under_a_name(*args, **kwargs)
            if run is not None:
                self._after(run, settings)
            return run

    def _run_under_a_name(self, *args: Any, **kwargs: Any) -> PipelineRunResponse | None:
        """Run under a name that is known before; by it the next start finds the run of a killed process."""
        arguments = self._run_args
        with marked_as_running(self.name, arguments.get("config_path")) as name:
            self._run_args = arguments | ({"run_name": name} if name is not None else {})
            try:
                return super().__call__(*args, **kwargs)
            finally:
                self._run_args = arguments

    def _raw_settings(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        given = dict(zip(("settings",), args, strict=False)) | kwargs
        parameters = self._apply_config_parameters(given)
        unknown = sorted(set(parameters) - {"settings"})
        if unknown:
            raise SettingsError(
                f"parameter {unknown[0]}: unknown; settings stand under parameters: settings:"
            )
        settings = parameters.get("settings")
        if settings is None:
            raise SettingsError(
                "parameters.settings is missing: name a file with -c, such as configs/quickstart.yaml"
            )
        if not isinstance(settings, Mapping):
            raise SettingsError(f"parameters.settings = {settings!r}: must be a mapping of sections")
        return settings


def guarded_pipeline(
    *, before: Before, after: After, **options: Any
) -> Callable[[Callable[..., Any]], GuardedPipeline]:
    """Return a decorator that makes a `GuardedPipeline` of a wiring function, as ZenML's `@pipeline` does."""

    def decorate(entrypoint: Callable[..., Any]) -> GuardedPipeline:
        made = GuardedPipeline(
            name=entrypoint.__name__, entrypoint=entrypoint, before=before, after=after, **options
        )
        made.__doc__ = entrypoint.__doc__
        return made

    return decorate


@contextlib.contextmanager
def one_line_errors(
    places: Callable[[], Mapping[str | Path, str | None]] = places_of,
) -> Iterator[None]:
    """Turn what a user can mend into a `ReportedError`, and keep ZenML from logging it three times over.

    Args:
        places: what may have been written, asked when something fails.

    Raises:
        ReportedError: in place of a `DistillationError`, or of a disk's refusal.
    """

    def is_worth_logging(record: logging.LogRecord) -> bool:
        """Refuse records about an error that is going to be shown as one line anyway."""
        about: list[object] = [record.exc_info[1]] if isinstance(record.exc_info, tuple) else []
        about += list(record.args) if isinstance(record.args, tuple) else []
        errors = [item for item in about if isinstance(item, BaseException)]
        return not any(is_expected(error) for error in errors) and record.name != _SIGNALS

    def is_expected(error: BaseException) -> bool:
        return isinstance(error, (DistillationError, Stopped)) or storage_error(error, places()) is not None

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_worth_logging)
    try:
        yield
    except DistillationError as error:
        leave_bars()
        raise ReportedError(error) from error
    except click.ClickException:
        raise
    except Exception as error:
        refused = storage_error(error, places())
        if refused is None:
            raise
        leave_bars()
        raise ReportedError(refused) from error
    finally:
        for handler in handlers:
            handler.removeFilter(is_worth_logging)


def _step_name() -> str:
    """Return the step at work, for the line of a stop."""
    from zenml import get_step_context

    return get_step_context().step_run.name


@contextlib.contextmanager
def _texts_as_they_stand() -> Iterator[None]:
    """Keep ZenML from putting variables of the environment into settings, prompts among them."""
    name = "substitute_env_variable_placeholders"
    substitute = getattr(env_utils, name)
    setattr(env_utils, name, lambda value: value)
    try:
        yield
    finally:
        setattr(env_utils, name, substitute)
