"""Every setting of the system: frozen pydantic models, one a concern, unknown keys refused.

A YAML under `configs/` is the only interface; `parse_settings` turns its mapping into `Settings` before
anything is downloaded or trained, and turns pydantic's report into one line a person can act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from distillation.errors import SettingsError
from distillation.explanations import explain

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
AlignerName = Literal["prefix", "shared", "projection", "learned", "attention", "truncate", "pad"]
DivergenceName = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "adaptive_kl",
    "total_variation",
]
DIVERGENCES: tuple[DivergenceName, ...] = get_args(DivergenceName)


class Section(BaseModel):
    """A group of settings: immutable, and an unknown key is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# --------------------------------------------------------------------------------------------- corpus


ColumnSource = TypeVar("ColumnSource", "HubSource", "FileSource")


class HubSource(Section):
    """A dataset of the Hugging Face hub, read as Parquet or text files at one pinned revision."""

    kind: Literal["hub"] = "hub"
    path: str
    """Repository of the dataset, for example `Salesforce/wikitext`."""
    name: str | None = None
    """Configuration of the dataset, for example `wikitext-2-raw-v1`."""
    split: str = "train"
    """Split to read; the held-out part is always made from it by content hash."""
    revision: str = "main"
    """Branch, tag or commit. Pin a commit for a result that can be repeated."""
    data_files: tuple[str, ...] = ()
    """Only these files of the repository are fetched; empty means what the configuration names."""
    text_column: str = "text"
    """Column that holds the text."""
    messages_column: str | None = None
    """Column that holds conversations, lists of `role` and `content`, in place of text; see docs/chat.md."""

    @model_validator(mode="after")
    def _one_column(self) -> HubSource:
        return _only_one_column(self)


class FileSource(Section):
    """Local documents: a txt, jsonl or parquet file, or a folder of them."""

    kind: Literal["file"] = "file"
    path: str
    """File or folder."""
    text_column: str = "text"
    """Field that holds the text in jsonl and parquet files."""
    messages_column: str | None = None
    """Field that holds conversations, lists of `role` and `content`, in place of text; see docs/chat.md."""

    @model_validator(mode="after")
    def _one_column(self) -> FileSource:
        return _only_one_column(self)


def _only_one_column(source: ColumnSource) -> ColumnSource:
    """Refuse a source that names a column of text and one of conversations: only one of them is read."""
    if source.messages_column is not None and "text_column" in source.model_fields_set:
        raise ValueError("text_column and messages_column are both set; name one of them")
    return source


class DocumentationSource(Section):
    """Docstrings and language reference of this very Python installation: always there, no network."""

    kind: Literal["documentation"] = "documentation"


HUB_PRESETS: dict[str, dict[str, Any]] = {
    "wikitext": {
        "kind": "hub",
        "path": "Salesforce/wikitext",
        "name": "wikitext-2-raw-v1",
        "revision": "b08601e04326c79dfdd32d625aee71d232d685c3",
    },
    "openwebtext": {
        "kind": "hub",
        "path": "Skylion007/openwebtext",
        "revision": "79d93d786212f7344586290adb811d4ae6a1762c",
        "data_files": ("plain_text/train-00000-of-00080.parquet",),
    },
}
"""Hub datasets that can be named by one word in `corpus.sources`."""


def _expand_source(value: Any) -> Any:
    """Turn the short form of a source, one word, into its settings."""
    if not isinstance(value, str):
        return value
    if value == "documentation":
        return {"kind": "documentation"}
    if value in HUB_PRESETS:
        return HUB_PRESETS[value]
    known = ", ".join(["documentation", *HUB_PRESETS])
    raise ValueError(f"unknown source; use one of {known}, or a mapping with kind: hub or kind: file")


Source = Annotated[
    Annotated[HubSource | FileSource | DocumentationSource, Field(discriminator="kind")],
    BeforeValidator(_expand_source),
]


class ContractSettings(Section):
    """The data contract: what a source must satisfy to be accepted."""

    min_documents: PositiveInt = 20
    """Fewest training documents; a source with fewer is refused."""
    min_held_out_documents: PositiveInt = 2
    """Fewest held-out documents."""
    min_median_characters: PositiveInt = 40
    """Least median length of a document, in characters: catches a wrong text column."""
    max_empty_share: Share = 0.0
    """Largest share of documents without any text left after cleaning."""
    max_duplicate_share: Share = 0.1
    """Largest share of source documents that repeat another one; repeats are dropped in any case."""
    max_leaked_share: Share = 0.2
    """A held-out document leaks when more than this share of its long n-grams stands in training ones."""
    max_leaking_documents_share: Share = 0.05
    """Largest share of held-out documents that leak."""
    max_unknown_share: Share = 0.01
    """Largest share of a tokenizer's tokens that are unknown tokens or byte fallbacks."""


class CorpusSettings(Section):
    """Where text comes from, how much of it, and what it must satisfy."""

    sources: tuple[Source, ...] = (DocumentationSource(),)
    """Tried in order; the first that loads and passes the contract is used, and the reasons are kept."""
    max_train_bytes: PositiveInt | None = 4_000_000
    """Stop adding training documents at this many UTF-8 bytes. None reads all."""
    max_held_out_bytes: PositiveInt | None = 200_000
    """Likewise for the held-out documents, which decide every comparison."""
    held_out_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Share of the hash space, so about the share of documents, that is held out."""
    min_document_characters: PositiveInt = 200
    """Shorter documents are dropped while loading."""
    hub_timeout: Annotated[float, Field(gt=0.0, le=60.0)] = 4.0
    """Seconds to wait for the hub's first answer before the next source is tried."""
    contract: ContractSettings = ContractSettings()
    """What a source must satisfy."""

    @field_validator("sources")
    @classmethod
    def _at_least_one(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if not sources:
            raise ValueError("name at least one source, for example [documentation]")
        return sources


# --------------------------------------------------------------------------------------------- models


class ModelReference(Section):
    """One causal language model with its tokenizer."""

    path: str = "sample"
    """Directory or hub repository; `sample` is the embedded model of this role."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Not used for directories."""
    trust_remote_code_of: str | None = None
    """`repository@revision`: code of a repository runs only if this names exactly this path and revision."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights in memory; `auto` takes the fastest sound one that the probe finds."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; `auto` takes the fastest that works and gives what the objective needs."""

    @model_validator(mode="after")
    def _remote_code_is_named_exactly(self) -> ModelReference:
        if self.trust_remote_code_of is not None:
            if self.revision is None:
                raise ValueError("trust_remote_code_of needs revision to be a commit; set revision")
            if self.trust_remote_code_of != f"{self.path}@{self.revision}":
                raise ValueError(f"trust_remote_code_of must be exactly {self.path}@{self.revision}")
        return self


class ModelSettings(Section):
    """The pair."""

    teacher: ModelReference = ModelReference()
    """The model that is learned from."""
    student: ModelReference = ModelReference()
    """The model that learns; it keeps its own tokenizer."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where both run; `auto` takes an accelerator whose kernels work, else the processor."""


# ------------------------------------------------------------------------------- alignment, objective


class ScheduleStage(Section):
    """One aligner for a stretch of the training."""

    strategy: AlignerName
    """The aligner of this stage."""
    until: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the steps at which the stage ends; 1 for the last."""


class AlignmentSettings(Section):
    """How a teacher's distribution becomes a target over the student's vocabulary."""

    strategy: AlignerName = "prefix"
    """`prefix`, `shared`, `projection`, `learned`, `attention`; `truncate` and `pad` are controls."""
    schedule: tuple[ScheduleStage, ...] = ()
    """Aligners one after another along training, in place of `strategy`; the last stage ends at 1."""
    rank: PositiveInt = 16
    """Rank of the correction that `learned` trains."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate of what is trained beside the student: aligners that learn, projections."""

    @field_validator("schedule")
    @classmethod
    def _ends_rise_to_one(cls, stages: tuple[ScheduleStage, ...]) -> tuple[ScheduleStage, ...]:
        ends = [stage.until for stage in stages]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1.0):
            raise ValueError(f"until must rise from stage to stage and end at 1; it is {ends}")
        return stages

    @property
    def stages(self) -> tuple[tuple[AlignerName, float], ...]:
        """(aligner, share of the steps at which it ends) in order; one stage without a schedule."""
        return tuple((stage.strategy, stage.until) for stage in self.schedule) or ((self.strategy, 1.0),)

    @property
    def name(self) -> str:
        """The aligners as one word, for names and tables: `shared>prefix` is a schedule."""
        return ">".join(strategy for strategy, _ in self.stages)


class TermWeights(Section):
    """The weighted sum that the student minimises; a weight of 0 leaves a term out."""

    cross_entropy: Weight = 0.0
    """Cross-entropy on the text."""
    forward_kl: Weight = 0.0
    """KL(teacher || student) over the aligner's target: covers what the teacher finds likely."""
    reverse_kl: Weight = 0.0
    """KL(student || teacher): avoids what the teacher finds unlikely (MiniLLM)."""
    jensen_shannon: Weight = 0.0
    """Mean of both against their middle."""
    skewed_forward_kl: Weight = 0.0
    """KL(teacher || mixture), `skew` of the teacher mixed into the student (DistiLLM)."""
    skewed_reverse_kl: Weight = 0.0
    """KL(student || mixture), `skew` of the student mixed into the teacher (DistiLLM)."""
    adaptive_kl: Weight = 0.0
    """Forward and reverse, weighted by where the two differ: head or tail (AKL)."""
    total_variation: Weight = 0.0
    """Half the summed difference of the probabilities."""
    likelihood: Weight = 0.0
    """Approximate likelihood matching: one log-probability a group between shared boundaries (ALM)."""
    uld: Weight = 0.0
    """Sorted probabilities, position by index: a baseline of other systems (ULD)."""
    gold: Weight = 0.0
    """Matched strings by Jensen-Shannon, the rest sorted, groups merged: a baseline (GOLD)."""
    hidden: Weight = 0.0
    """Hidden states, pooled over the tokens of a group."""
    attention: Weight = 0.0
    """Attention maps, pooled over groups; both models run with eager attention."""

    @property
    def active(self) -> dict[str, float]:
        """Weights above 0, by name."""
        return {name: weight for name, weight in self.model_dump().items() if weight > 0}

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return bool(self.active.keys() - {"cross_entropy"})

    @property
    def description(self) -> str:
        """The sum in words, `0.1 cross_entropy + 0.9 forward_kl`."""
        return " + ".join(f"{weight:g} {name}" for name, weight in self.active.items())


TEXT_ALONE = TermWeights(cross_entropy=1.0)


class LikelihoodSettings(Section):
    """Approximate likelihood matching (arXiv 2503.20083)."""

    temperature: PositiveFloat = 100.0
    """tau: a group's log-probability is divided by it before the two are compared."""
    debias: Literal["none", "product", "merge"] = "product"
    """`product` multiplies a group by the probability that a new word follows it, `merge` joins groups until
    the teacher gives that more than `boundary_threshold`."""
    boundary_threshold: Share = 0.1
    """The least such probability at which `merge` ends a group."""


class GoldSettings(Section):
    """The baseline GOLD."""

    merge: Literal["chain_rule", "observed"] = "chain_rule"
    """How a group of several tokens becomes one distribution; `observed` is TRL's default, off by one."""
    beta: Share = 0.5
    """Share of the teacher in the middle of the generalised Jensen-Shannon divergence."""


class LayerSettings(Section):
    """Which layers are compared by `hidden` and `attention`."""

    num_layers: PositiveInt = 2
    """Layers of the student that take part, evenly spread by depth and always with the last one."""


class ObjectiveSettings(Section):
    """What the student minimises."""

    terms: TermWeights = TermWeights(cross_entropy=0.1, forward_kl=0.9)
    """Weight of each term. Naming any replaces all: text alone is {cross_entropy: 1}."""
    skew: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of the other distribution mixed in by the skewed divergences (DistiLLM)."""
    temperature: Annotated[float, Field(ge=0.1, le=20.0)] = 1.0
    """Softens both distributions of a divergence, which is multiplied by its square."""
    chunk_size: PositiveInt | None = None
    """Positions whose logits exist at a time; None chooses from the vocabularies and free memory."""
    gradient_shares: NonNegativeInt = 8
    """How often along training the gradient of each term is measured and its share logged; 0 is never."""
    likelihood: LikelihoodSettings = LikelihoodSettings()
    gold: GoldSettings = GoldSettings()
    layers: LayerSettings = LayerSettings()

    @field_validator("terms")
    @classmethod
    def _some_term(cls, terms: TermWeights) -> TermWeights:
        if not terms.active:
            raise ValueError("give at least one term a weight, for example {cross_entropy: 0.1, forward_kl: 0.9}")
        return terms

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return self.terms.uses_teacher


# ------------------------------------------------------------------------------------------- training


class TrainingSettings(Section):
    """The run: windows, optimiser, schedule, checkpoints."""

    num_epochs: PositiveFloat = 1.0
    """Passes over the training documents. Ignored when `max_steps` is set."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; None derives them from `num_epochs`."""
    batch_size: PositiveInt = 8
    """Windows a device and step."""
    gradient_accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added before one optimiser step."""
    max_length: Annotated[int, Field(ge=16)] = 256
    """Longest window, in tokens of either tokenizer."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    evaluations: PositiveInt = 4
    """How often, evenly spread, the held-out bits per byte are measured and a checkpoint is written."""
    gradient_checkpointing: bool = False
    """Recompute the student's activations in the backward pass: slower, much smaller."""
    output_dir: str = "outputs/jobs"
    """Folder of the job directories."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept in a job directory besides the best one."""


class EvaluationSettings(Section):
    """How students are compared."""

    controls: tuple[Literal["text_only", "truncate"], ...] = ("text_only", "truncate")
    """Students trained beside the distilled one, from the same start on the same windows."""
    max_length: Annotated[int, Field(ge=16)] = 256
    """Window of the bits-per-byte measure, in tokens."""
    stride: PositiveInt = 192
    """Tokens scored by a window; the others of the window are context."""
    batch_size: PositiveInt = 16
    """Windows evaluated at a time."""
    prompts: tuple[str, ...] = (
        "Return a new list containing",
        "The function raises ValueError if",
        "Parameters\n----------\n",
    )
    """Beginnings that every model continues in the report."""
    num_new_tokens: NonNegativeInt = 48
    """Length of a continuation, in the model's own tokens."""

    @model_validator(mode="after")
    def _stride_within_window(self) -> EvaluationSettings:
        if self.stride >= self.max_length:
            raise ValueError(
                f"stride must be less than max_length ({self.max_length}); lower evaluation.stride"
            )
        return self


class TrackingSettings(Section):
    """Where runs are recorded."""

    experiment: str = "student-aware-distillation"
    """MLflow experiment, and name of the registered model's family."""
    uri: str | None = None
    """MLflow tracking server; None uses the active ZenML stack's experiment tracker."""


class Settings(Section):
    """All settings of the distillation pipeline."""

    seed: NonNegativeInt = 0
    """Seeds data order and initialisation; same seed, same weights to the bit on a processor."""
    corpus: CorpusSettings = CorpusSettings()
    models: ModelSettings = ModelSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _attention_maps_need_eager(self) -> Settings:
        for role in ("teacher", "student"):
            chosen = getattr(self.models, role).attention
            if self.objective.terms.attention > 0 and chosen not in ("auto", "eager"):
                raise ValueError(
                    f"models.{role}.attention = {chosen!r} returns no attention maps, which "
                    "objective.terms.attention needs: use auto, or set that weight to 0"
                )
        return self


class PromotionSettings(Section):
    """The gate between a finished run and the champion."""

    experiment: str = "student-aware-distillation"
    """MLflow experiment whose runs compete."""
    uri: str | None = None
    """MLflow tracking server; None uses the active ZenML stack's experiment tracker."""
    model_name: str = "student"
    """Name in the model registry; the champion is `models:/NAME@champion`."""
    metric: str = "distilled.bits_per_byte"
    """Metric that ranks runs; lower is better unless `higher_is_better`."""
    higher_is_better: bool = False
    """Direction of `metric`."""
    control_metric: str = "text_only.bits_per_byte"
    """The same measure of the text-only control of the same run, which must be beaten."""
    control_margin: NonNegativeFloat = 0.005
    """By how much, relative, the control must be beaten."""
    champion_margin: NonNegativeFloat = 0.0
    """By how much, relative, the current champion must be beaten."""


SectionType = TypeVar("SectionType", bound=Section)


def parse_settings(raw: Mapping[str, Any], kind: type[SectionType] = Settings) -> SectionType:  # type: ignore[assignment]
    """Check `raw` and return the frozen settings of `kind`.

    Raises:
        SettingsError: one line that names each faulty setting, its value and the remedy.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as report:
        raise SettingsError(explain(kind, report)) from None
