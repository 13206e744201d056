"""What a step is given is what the file says, by `zenml pipeline run`, `python -m pipelines.NAME`, `distil`.

Nothing runs here: the pipeline is compiled, as before a run, and what would be stored is looked at.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from distillation.config import (
    ComparisonSettings,
    CorpusSettings,
    PromotionSettings,
    Settings,
    parse_settings,
)
from pipelines.command import merge_overrides
from pipelines.parameters import read_parameters

REPOSITORY = Path(__file__).resolve().parents[2]
PROMPTS = [
    "echo ${HOME",
    "const s = `${NAME_OF_SMITH} is`",
    "${{ secrets.X }} {date} {{x}}",
    r"$\frac{a}{b}$ 100 % ~/x",
    "2024-07-16",
    "null",
    "ü → 漢字 \U0001f600",
    "tab\there\nline\u2028end",
]


def pipeline_named(name: str) -> Any:
    """Return the pipeline; imported here, since ZenML asks for the sources' root, which a fixture sets."""
    return getattr(importlib.import_module(f"pipelines.{name}"), f"{name}_pipeline")


def stored(name: str, path: Path) -> dict[str, dict[str, Any]]:
    """Return the parameters of each step as a run from this file would store them."""
    ready = pipeline_named(name).with_options(config_path=str(path))
    ready.prepare()
    snapshot, _, _ = ready._compile(**ready._run_args)
    content = json.loads(snapshot.model_dump_json())
    return {name: step["config"]["parameters"] for name, step in content["step_configurations"].items()}


@pytest.fixture
def hard_settings(workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NAME_OF_SMITH", "Smith")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = {"kind": "file", "path": "~/texts", "messages_column": "messages"}
    return workplace.settings | {
        "corpus": {"sources": [texts, "wikitext"], "max_train_bytes": None},
        "evaluation": workplace.settings["evaluation"] | {"prompts": PROMPTS, "tasks": []},
        "training": workplace.settings["training"] | {"output_dir": "~/jobs"},
        "tracking": {"experiment": "costs ${NAME_OF_SMITH} nothing"},
    }


def check_steps(steps: dict[str, dict[str, Any]], settings: Settings, home: Path) -> None:
    assert CorpusSettings.model_validate(steps["load_corpus"]["corpus"]) == settings.corpus
    assert settings.corpus.sources[0].path == f"{home}/texts"
    assert settings.training.output_dir == f"{home}/jobs"
    assert settings.evaluation.prompts == tuple(PROMPTS)
    assert settings.tracking.experiment == "costs ${NAME_OF_SMITH} nothing"
    given = [one for one in steps.values() if "settings" in one]
    assert given
    for parameters in given:
        if "evaluation" in parameters["settings"] and parameters["settings"]["evaluation"]["tasks"] == []:
            assert parameters["settings"]["evaluation"]["prompts"] == PROMPTS


def test_a_distillation(hard_settings: dict[str, Any], workplace: Any, tmp_path: Path) -> None:
    path = Path(workplace.config("hard.yaml", hard_settings))
    steps = stored("distillation", path)
    check_steps(steps, parse_settings(hard_settings), tmp_path / "home")
    last = steps["evaluate_student"]["settings"]
    assert Settings.model_validate(last) == parse_settings(hard_settings)


def test_a_comparison(hard_settings: dict[str, Any], workplace: Any, tmp_path: Path) -> None:
    hard = hard_settings | {
        "comparison": {"seeds": [0], "variants": {"prefix": {}, "b": {"cache": {"kind": "top_k"}}}}
    }
    path = Path(workplace.config("hard.yaml", hard))
    steps = stored("comparison", path)
    assert steps["compare_variants"]["settings"]["evaluation"]["prompts"] == PROMPTS
    assert steps["load_corpus"]["corpus"]["max_train_bytes"] is None
    entry = next(one["entry"] for name, one in steps.items() if name.endswith("prefix seed 0"))
    assert entry["settings"]["evaluation"]["prompts"] == PROMPTS
    assert steps["load_corpus"]["corpus"]["sources"][0]["path"] == f"{tmp_path}/home/texts"


def test_a_promotion(workplace: Any) -> None:
    wanted = {"experiment": "a ${NAME_OF_SMITH}", "export_dir": None, "metric": "distilled.bits_per_byte"}
    path = Path(workplace.config("promote.yaml", wanted))
    steps = stored("promotion", path)
    assert {str(PromotionSettings.model_validate(one[key])) for one in steps.values() for key in one} == {
        str(parse_settings(wanted, PromotionSettings))
    }


PIPELINES = {
    "distillation": Settings,
    "comparison": ComparisonSettings,
    "promotion": PromotionSettings,
}
COMMAND = re.compile(
    r"(?:python -m [a-z]+(?:\.[a-z_]+)+|zenml pipeline run pipelines"
    r"|\bdistil (?:audit|run|compare|promote|rollback|train|ui|stack)\b)(?:[^`\n]|\\\n)*"
)
MODULES = {
    "audit": "distillation.audit",
    "run": "pipelines.distillation",
    "compare": "pipelines.comparison",
    "promote": "pipelines.promotion",
    "rollback": "pipelines.promotion",
    "train": "distillation.training",
    "ui": "stacks.local",
    "stack": "stacks.local",
}
"""Where the commands of `distil` are."""
COPIES = {"configs/mine.yaml": "configs/huihui_to_smollm.yaml"}
"""Files that a reader is told to make, and of what."""


def documented() -> list[list[str]]:
    """Return the words of every command that documentation, files of settings and the Makefile show."""
    pages = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "Makefile"]
    pages += sorted((REPOSITORY / "docs").glob("*.md")) + sorted((REPOSITORY / "configs").glob("*.yaml"))
    pages += sorted((REPOSITORY / "pipelines").glob("*.py"))
    found: dict[tuple[str, ...], None] = {}
    for page in pages:
        for command in COMMAND.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
            found[tuple(shlex.split(command.split(" && ")[0], comments=True))] = None
    return [list(words) for words in found]


def module_of(words: list[str]) -> str:
    """Return the module that a command runs."""
    if words[0] == "distil":
        return MODULES[words[1]]
    return words[3].rpartition(".")[0] if words[0] == "zenml" else words[2]


def test_every_documented_command_names_what_is_there() -> None:
    commands = documented()
    assert len(commands) > 25
    for words in commands:
        module = module_of(words)
        if "NAME" in module:
            continue
        spec = importlib.util.find_spec(module)
        assert spec is not None, words
        assert spec.origin is not None
        files = [Path(spec.origin), *Path(spec.origin).parent.glob("__main__.py")]
        files += [
            REPOSITORY / "pipelines" / "command.py",
            REPOSITORY / "distillation" / "audit" / "__main__.py",
        ]
        known = "".join(file.read_text(encoding="utf-8") for file in files) + "--help --rollback --publish"
        assert [word for word in words if word.startswith("--") and word not in known] == [], words


def test_every_documented_run_means_the_same_by_both_roads(
    workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    compiled: set[str] = set()
    for words in documented():
        if "-c" not in words:
            continue
        name = module_of(words).split(".")[1]
        kind = PIPELINES[name]
        place = words.index("-c") + 1
        file = COPIES.get(words[place], words[place])
        raw = read_parameters(str(REPOSITORY / file))["parameters"]["settings"]
        overrides = [word for word in words[place + 1 :] if "=" in word]
        changed = parse_settings(merge_overrides(raw, overrides), kind)
        assert (changed != parse_settings(raw, kind)) is bool(overrides), words
        if name not in compiled:  # the shipped files of one pipeline differ in values alone
            last = list(stored(name, REPOSITORY / file).values())[-1]
            assert parse_settings(raw, kind) in [
                kind.model_validate(value) for value in last.values() if isinstance(value, dict)
            ]
            compiled.add(name)
    assert compiled == set(PIPELINES)
