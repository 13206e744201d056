"""Every setting of the system: frozen pydantic models, one a concern, unknown keys refused.

A YAML under `configs/` is the only interface; `parse_settings` turns its mapping into `Settings` before
anything is downloaded or trained, and turns pydantic's report into one line a person can act on. Each setting
is explained below its field: `corpus`, `models`, `objective` (alignment too), `training`, `cache`,
`evaluation`, `comparison`, `promotion`, `settings` (tracking, the whole). `controls` holds the controls.
"""

from distillation.config.cache import CacheSettings
from distillation.config.comparison import (
    FOUND,
    Changes,
    ComparisonPlan,
    ComparisonSettings,
    Range,
    SearchSettings,
    change_settings,
)
from distillation.config.controls import BASELINE, CONTROLS, Control
from distillation.config.corpus import (
    HUB_PRESETS,
    ContractSettings,
    CorpusSettings,
    DocumentationSource,
    FileSource,
    HubSource,
    Source,
)
from distillation.config.evaluation import EMBEDDED_TASKS, EvaluationSettings
from distillation.config.models import ModelReference, ModelSettings
from distillation.config.objective import (
    DIVERGENCES,
    TEXT_ALONE,
    AlignerName,
    AlignmentSettings,
    DivergenceName,
    GoldSettings,
    LayerSettings,
    LikelihoodSettings,
    ObjectiveSettings,
    ScheduleStage,
    TermWeights,
)
from distillation.config.promotion import PromotionSettings
from distillation.config.section import Section, Share, Weight
from distillation.config.settings import Settings, TrackingSettings, parse_settings, set_by_name
from distillation.config.student import StudentSettings
from distillation.config.training import TrainingSettings

__all__ = [
    "BASELINE",
    "CONTROLS",
    "DIVERGENCES",
    "EMBEDDED_TASKS",
    "FOUND",
    "HUB_PRESETS",
    "TEXT_ALONE",
    "AlignerName",
    "AlignmentSettings",
    "CacheSettings",
    "Changes",
    "ComparisonPlan",
    "ComparisonSettings",
    "ContractSettings",
    "Control",
    "CorpusSettings",
    "DivergenceName",
    "DocumentationSource",
    "EvaluationSettings",
    "FileSource",
    "GoldSettings",
    "HubSource",
    "LayerSettings",
    "LikelihoodSettings",
    "ModelReference",
    "ModelSettings",
    "ObjectiveSettings",
    "PromotionSettings",
    "Range",
    "ScheduleStage",
    "SearchSettings",
    "Section",
    "Settings",
    "Share",
    "Source",
    "StudentSettings",
    "TermWeights",
    "TrackingSettings",
    "TrainingSettings",
    "Weight",
    "change_settings",
    "parse_settings",
    "set_by_name",
]
