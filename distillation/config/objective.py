"""Settings of alignment and objective: how the teacher's knowledge is carried over, and what is minimised."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from distillation.config.section import Section, Share, Weight

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
    debias: Literal["none", "product", "merge"] = "none"
    """`none` did best on the embedded pair. `product` multiplies a group by the probability that a new word
    follows it, `merge` joins groups until the teacher gives that more than `boundary_threshold`."""
    boundary_threshold: Share = 0.1
    """The least such probability at which `merge` ends a group."""


class GoldSettings(Section):
    """The baseline GOLD."""

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
    """Positions whose logits exist at a time; None chooses from the vocabularies and the device's memory."""
    gradient_shares: NonNegativeInt = 8
    """How often along training the gradient of each term is measured and its share logged; 0 is never."""
    likelihood: LikelihoodSettings = LikelihoodSettings()
    gold: GoldSettings = GoldSettings()
    layers: LayerSettings = LayerSettings()

    @field_validator("terms")
    @classmethod
    def _some_term(cls, terms: TermWeights) -> TermWeights:
        if not terms.active:
            raise ValueError(
                "give at least one term a weight, for example {cross_entropy: 0.1, forward_kl: 0.9}"
            )
        return terms

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return self.terms.uses_teacher
