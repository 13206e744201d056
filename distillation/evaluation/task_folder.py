"""Names of tasks, and a folder of the user's own: checked in a moment, before anything is trained.

The library passes over a YAML that it cannot read, and knows a name only when it is asked to run it. Here a
broken file and an unknown name are one line each. Looking through the library's own 14,000 names takes
seconds, so it is done only for a name that is neither embedded nor in the folder.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from distillation.config import EMBEDDED_TASKS, EvaluationSettings
from distillation.errors import InputError, SettingsError, one_line, shorten
from distillation.reading import printable, read_text

_MAX_BYTES = 2**20
PACKAGED = ("json", "csv", "parquet", "text", "arrow")
"""Values of `dataset_path` that name a file format, not a dataset of the hub."""


def check_tasks(settings: EvaluationSettings) -> None:
    """Check `tasks` and `task_dir`.

    Raises:
        SettingsError: the folder is missing, a YAML in it cannot be read, or a task is unknown.
    """
    others = [name for name in settings.tasks if name not in EMBEDDED_TASKS]
    if others or settings.task_dir is not None:
        task_manager(settings, others)


def task_manager(settings: EvaluationSettings, names: list[str]) -> Any:
    """Return the library's `TaskManager` that knows `names`, with the folder's tasks ready to run.

    Raises:
        SettingsError: as `check_tasks`.
    """
    from lm_eval.tasks import TaskManager

    folder = None
    if settings.task_dir is not None:
        folder = Path(settings.task_dir).resolve()
        if not folder.is_dir():
            raise SettingsError(
                f"evaluation.task_dir = {settings.task_dir}: there is no such folder; "
                "name one that holds YAML files of lm-eval"
            )
        _check_files(folder)
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder)
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        close = difflib.get_close_matches(unknown[0], [*EMBEDDED_TASKS, *manager.all_tasks], n=1)
        hint = f"did you mean {close[0]}?" if close else "`lm-eval ls tasks` lists those of the library"
        raise SettingsError(f"evaluation.tasks: unknown task {unknown[0]}: {hint}")
    if folder is not None:
        bind_files(manager, folder)
    return manager


def bind_files(manager: Any, folder: Path, cache_dir: Path | None = None) -> None:
    """Make paths of data files absolute: the library takes them from wherever the process was started.

    `cache_dir` is where `datasets` keeps what it makes of them; None is its own place.

    Raises:
        SettingsError: a file is not there, or a function that a YAML names.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    for entry in manager.task_index.values():
        if entry.yaml_path is None or folder not in entry.yaml_path.resolve().parents:
            continue
        if (entry.cfg or {}).get("dataset_path") not in PACKAGED:
            continue
        try:
            definition = load_yaml(entry.yaml_path, resolve_func=True)
        except Exception as error:  # a function that is not there, or a module of the user's that fails
            raise SettingsError(
                f"evaluation.task_dir: {entry.yaml_path}: {shorten(one_line(error))}; "
                "mend the function it names"
            ) from None
        arguments = dict(definition.get("dataset_kwargs") or {})
        if "data_files" in arguments:
            arguments["data_files"] = _absolute(arguments["data_files"], entry.yaml_path.parent)
        if cache_dir is not None:
            arguments["cache_dir"] = str(cache_dir)
        entry.cfg = definition | {"dataset_kwargs": arguments}
        entry.yaml_path = None  # the library would read the file again


def needs_hub(manager: Any, name: str, settings: EvaluationSettings) -> bool:
    """Tell whether the documents of a task come from another host, as far as its YAML says so."""
    entry = manager.task_index[name]
    definition = entry.cfg or {}
    path = definition.get("dataset_path")
    if path is not None:
        files = (definition.get("dataset_kwargs") or {}).get("data_files")
        return "://" in str(files) or (path not in PACKAGED and not Path(path).exists())
    # A group, or a task with a Python class: one of the user's own folder is found out by running it.
    folder = None if settings.task_dir is None else Path(settings.task_dir).resolve()
    return entry.yaml_path is None or folder not in entry.yaml_path.resolve().parents


def _check_files(folder: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in sorted(folder.rglob("*.yaml")):
        where = f"evaluation.task_dir: {printable(file)}"
        try:
            read_text(file, max_bytes=_MAX_BYTES)  # the library would wait for a pipe, or read a device
        except InputError as error:
            reason = one_line(error).removeprefix(f"{printable(file)}: ")
            raise SettingsError(f"{where}: no task of lm-eval ({reason}); mend or remove it") from None
        try:
            definition = load_yaml(file, resolve_func=False)
        except Exception as error:  # yaml's own errors, a missing file to include, a cycle, a wrong type
            raise SettingsError(
                f"{where}: no task of lm-eval ({shorten(one_line(error))}); mend or remove it"
            ) from None
        if definition.get("task") in EMBEDDED_TASKS:
            raise SettingsError(
                f"{where}: task = {definition['task']} is the name of an embedded task; give it another"
            )


def _absolute(files: Any, folder: Path) -> Any:
    """Return the same structure (a name, a list, a mapping by split) with paths below `folder`.

    Raises:
        SettingsError: a file is not there.
    """
    if isinstance(files, dict):
        return {split: _absolute(names, folder) for split, names in files.items()}
    if isinstance(files, list):
        return [_absolute(name, folder) for name in files]
    if "://" in files:
        return files
    path = Path(files).expanduser()
    path = path if path.is_absolute() else folder / path
    if not any(character in path.name for character in "*?[") and not path.exists():
        raise SettingsError(f"evaluation.task_dir: data_files names {path}, which is not there")
    return str(path)
