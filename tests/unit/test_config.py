"""Settings: frozen, typos and impossible values are one line that helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from distillation import config
from distillation.config import Section, Settings, parse_settings
from distillation.errors import SettingsError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"trainig": {}}, ["trainig", "did you mean training?"]),
        ({"training": {"batch_sise": 4}}, ["training.batch_sise = 4", "did you mean batch_size?"]),
        ({"training": {"batch_size": -3}}, ["training.batch_size = -3", "must be greater than 0"]),
        ({"training": {"batch_size": "many"}}, ["training.batch_size = 'many'", "integer"]),
        ({"objective": {"terms": {"kl": 1}}}, ["objective.terms.kl = 1", "forward_kl"]),
        (
            {"objective": {"terms": {"forward_kl": -1.5}}},
            ["objective.terms.forward_kl = -1.5", "greater than or equal"],
        ),
        ({"corpus": {"sources": []}}, ["corpus.sources", "at least one source"]),
        ({"corpus": {"sources": ["wikitxt"]}}, ["corpus.sources.0 = 'wikitxt'", "wikitext", "openwebtext"]),
        ({"corpus": {"sources": [{"kind": "hub"}]}}, ["corpus.sources.0.path is missing"]),
        ({"evaluation": {"stride": 300}}, ["evaluation", "stride must be less than max_length"]),
        ({"training": 5}, ["training = 5"]),
        (
            {"evaluation": {"controls": ["text_onli"]}},
            ["evaluation.controls.0 = 'text_onli'", "no control has this name; did you mean text_only?"],
        ),
        ({"cache": {"kind": "top_p"}}, ["cache.kind = 'top_p'", "sampling", "top_k"]),
        ({"cache": {"num_samples": 0}}, ["cache.num_samples = 0", "greater than"]),
        (
            {"cache": {}, "objective": {"terms": {"forward_kl": 0.9, "uld": 0.1}}},
            ["objective.terms.uld = 0.1", "cache to null"],
        ),
        ({"cache": {}, "objective": {"terms": {"hidden": 1}}}, ["objective.terms.hidden = 1", "null"]),
        (
            {"cache": {}, "objective": {"terms": {"reverse_kl": 1}}},
            ["cache.kind = 'sampling'", "objective.terms.reverse_kl = 1", "top_k"],
        ),
        ({"cache": {}, "objective": {"terms": {"cross_entropy": 1}}}, ["cache is set", "null"]),
        ({"cache": {}, "alignment": {"strategy": "learned"}}, ["alignment.strategy = 'learned'", "prefix"]),
        (
            {
                "cache": {},
                "alignment": {
                    "schedule": [
                        {"strategy": "shared", "until": 0.5},
                        {"strategy": "prefix", "until": 1.0},
                    ]
                },
            },
            ["alignment.schedule = 'shared>prefix'", "null"],
        ),
    ],
)
def test_a_bad_setting_is_one_helpful_line(raw: dict, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_several_faults_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"training": {"batch_size": 0, "learning_rate": -1}})
    assert "batch_size" in str(caught.value)
    assert "learning_rate" in str(caught.value)


def test_remote_code_needs_the_very_name_and_revision() -> None:
    teacher = {"path": "org/model", "revision": "abc", "trust_remote_code_of": "org/model@abc"}
    assert parse_settings({"models": {"teacher": teacher}}).models.teacher.trust_remote_code_of
    for change in ({"revision": None}, {"trust_remote_code_of": "org/model@def"}, {"path": "org/other"}):
        with pytest.raises(SettingsError, match="trust_remote_code_of"):
            parse_settings({"models": {"teacher": teacher | change}})


def test_a_cache_serves_what_it_can() -> None:
    terms = {"cross_entropy": 0.1, "forward_kl": 0.5, "likelihood": 0.4}
    assert parse_settings({"cache": {}, "objective": {"terms": terms}}).cache.kind == "sampling"
    everything = dict.fromkeys(config.DIVERGENCES, 1.0)
    parse_settings({"cache": {"kind": "top_k"}, "objective": {"terms": everything}})
    assert parse_settings({}).cache is None


def test_aligners_that_learn_are_known_to_the_settings() -> None:
    from distillation.aligners import learned as learning
    from distillation.aligners.base import Aligner
    from distillation.config.cache import LEARNING_ALIGNERS

    found = {one.name for one in vars(learning).values()
             if isinstance(one, type) and issubclass(one, Aligner) and one.companion is not None}  # fmt: skip
    assert found == set(LEARNING_ALIGNERS)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().seed = 3


def test_every_field_is_explained() -> None:
    sections = [
        value for value in vars(config).values() if isinstance(value, type) and issubclass(value, Section)
    ]
    assert len(sections) > 10
    for section in sections:
        for name, field in section.model_fields.items():
            is_group = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
            assert field.description or is_group or name == "kind", (
                f"{section.__name__}.{name} has no docstring"
            )


def test_presets_stand_for_pinned_datasets() -> None:
    settings = parse_settings({"corpus": {"sources": ["wikitext", "openwebtext", "documentation"]}})
    wikitext, openwebtext, documentation = settings.corpus.sources
    assert (wikitext.path, wikitext.name) == ("Salesforce/wikitext", "wikitext-2-raw-v1")
    assert len(wikitext.revision) == len(openwebtext.revision) == 40
    assert all(name.endswith(".parquet") for name in openwebtext.data_files)
    assert documentation.kind == "documentation"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())["parameters"]["settings"]
    kinds = {"promote": config.PromotionSettings, "compare_objectives": config.ComparisonSettings}
    kind = kinds.get(path.stem, Settings)
    parse_settings(raw, kind)
