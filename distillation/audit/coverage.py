"""What two tokenizers do with given texts: how often they agree, and how much each aligner can use.

All shares are by count. Shares of positions are of *all* student tokens of the given texts, refused texts and
stretches that no window holds included. `retained_*` is a proxy for retained probability mass that needs no
weights: the teacher's mass is taken to lie on the tokens that really stand in the texts, each occurrence
counting the same, so it says how often the teacher's likely token can be expressed on the student's side.

Invariants: per aligner, the causes and the share with a target add up to 1; the four kinds of groups add up
to all groups; weighed by their positions, the slices by script, and those by kind, add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from distillation.audit.counting import LOST, REFUSED, Tally, VocabularyTables
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.text_classes import KINDS, SCRIPTS

BATCH_TEXTS = 128
BATCH_CHARACTERS = 4_000_000
"""Texts of a batch times the longest of them: the size of its padded arrays."""

BEYOND = "beyond the teacher's tokens"
RESIDUAL = "student cannot write the teacher's token"
REFUSED_TEXT = "text refused: "
IN_A_TEXT = "in a text: "
"""Before the cause of what was lost: a text, or the stretch around what one side cannot spell."""
LEFT_OUT = "no shared boundary within a window"
INSIDE = "begins inside a teacher token"
ENDS_DIFFER = "begins with a teacher token and ends elsewhere"
NO_SUCH_ROW = "more student tokens than teacher tokens"


class AlignerCoverage(BaseModel):
    """How many student positions an aligner gives a target, and how many of those targets are right."""

    model_config = ConfigDict(frozen=True)

    share_with_target: float
    """Share of the student's positions that learn from a row of the teacher. `prefix` leaves out positions
    where the text's own teacher token cannot be begun by the student: the target would hold little but that
    text."""
    share_sound: float
    """Share of the student's positions whose row of the teacher has read the same text, to the byte."""
    causes_without_target: dict[str, float]
    """Cause -> share of the student's positions."""


class SliceAudit(BaseModel):
    """The positions of one script or of one kind of text."""

    model_config = ConfigDict(frozen=True)

    num_positions: int
    """Student tokens of the slice."""
    share_of_positions: float
    """Of all positions."""
    num_teacher_tokens: int
    """Teacher tokens of the slice, in accepted texts."""
    retained_shared: float
    """As in `CorpusAudit`, of the teacher's tokens of the slice; likewise below."""
    retained_prefix: float
    retained_truncate: float
    truncate_same_meaning: float
    coverage: dict[str, AlignerCoverage]
    """Aligner -> shares of the positions of the slice."""


class CorpusAudit(BaseModel):
    """How two tokenizers cut the same texts."""

    model_config = ConfigDict(frozen=True)

    num_texts: int
    """Texts that were given."""
    num_refused_texts: int
    """Texts for which both sides could not be brought to the same bytes."""
    refusals: dict[str, int]
    """Cause -> texts."""
    num_shortened_texts: int = 0
    """Accepted texts of which one side cannot spell a part: the stretch around it is lost."""
    window_length: int | None
    """Tokens of a window, start token included; None: texts were not cut."""
    num_bytes: int
    """UTF-8 bytes of the accepted texts."""
    num_teacher_tokens: int
    """Of the accepted texts."""
    num_student_tokens: int
    """Of the accepted texts."""
    num_positions: int
    """Student tokens of all given texts: what shares of positions are shares of."""
    num_groups: int
    """Stretches between neighbouring shared boundaries."""
    groups: dict[str, int]
    """Teacher:student tokens in a group, `1:1`, `1:n`, `n:1`, `n:m` -> groups."""
    one_to_one_group_share: float
    one_to_one_student_token_share: float
    """Share of the accepted student tokens that are in 1:1 groups."""
    share_inside_teacher_token: float
    """Share of positions that begin inside a teacher token."""
    share_past_teacher_token: float
    """Share of positions whose token runs past the end of the teacher's."""
    whitespace_share: float
    """Share of the accepted student tokens that touch a run of at least two bytes of white space."""
    whitespace_hazard_share: float
    """Share of them that do, and are in no 1:1 group: there the tokenizers disagree."""
    retained_shared: float
    """Share of the teacher's tokens in the texts whose byte string the student has as a token."""
    retained_prefix: float
    """Share of the teacher's tokens in the texts that the student can begin to write."""
    retained_truncate: float
    """Share of the teacher's tokens in the texts whose id is kept by truncation."""
    truncate_same_meaning: float
    """Share of the teacher's tokens in the texts whose id is kept *and* means the same string."""
    coverage: dict[str, AlignerCoverage]
    """Aligner -> positions with a target."""
    kinds: dict[str, SliceAudit]
    """`prose`, `code`, `maths`, `whitespace` -> its positions, most first; without those that have none."""
    scripts: dict[str, SliceAudit]
    """Script -> its positions, most first; `common` is digits, punctuation and symbols."""


def audit_texts(
    encoder: PairEncoder,
    texts: Iterable[str],
    tables: VocabularyTables,
    *,
    window_length: int | None = None,
) -> CorpusAudit | None:
    """Count over `texts`; None if they have not a single student token.

    Args:
        encoder: encodes with both tokenizers.
        texts: the texts, read in batches.
        tables: facts about the vocabularies.
        window_length: cut texts into windows of so many tokens a side, as training does; None does not.
    """
    tally = Tally(encoder, tables, window_length)
    batch: list[str] = []
    longest = 0
    for text in texts:
        longest = max(longest, len(text))
        if batch and (len(batch) == BATCH_TEXTS or longest * (len(batch) + 1) > BATCH_CHARACTERS):
            tally.add(batch)
            batch, longest = [], len(text)
        batch.append(text)
    if batch:
        tally.add(batch)
    return _summarise(tally, window_length) if tally.counts["positions"].any() else None


def _summarise(tally: Tally, window_length: int | None) -> CorpusAudit:
    counts, numbers = tally.counts, tally.numbers
    total = {name: int(table.sum()) for name, table in counts.items()}
    positions, accepted = total["positions"], total.get("tokens", 0)
    kinds = {name: {key: int(table[:, i].sum()) for key, table in counts.items()}
             for i, name in enumerate(KINDS)}  # fmt: skip
    scripts = {name: {key: int(table[i].sum()) for key, table in counts.items()}
               for i, name in enumerate(SCRIPTS)}  # fmt: skip
    return CorpusAudit(
        num_texts=numbers["texts"],
        num_refused_texts=sum(tally.refusals.values()),
        refusals=dict(tally.refusals),
        num_shortened_texts=numbers["shortened"],
        window_length=window_length,
        num_bytes=numbers["bytes"],
        num_teacher_tokens=total.get("teacher_tokens", 0),
        num_student_tokens=accepted,
        num_positions=positions,
        num_groups=numbers["groups"],
        groups={"1:1": numbers["1:1"], "1:n": numbers["1:n"], "n:1": numbers["n:1"], "n:m": numbers["n:n"]},
        one_to_one_group_share=numbers["1:1"] / max(numbers["groups"], 1),
        one_to_one_student_token_share=total.get("cut_alike", 0) / max(accepted, 1),
        share_inside_teacher_token=total.get("inside", 0) / positions,
        share_past_teacher_token=total.get("past", 0) / positions,
        whitespace_share=total.get("whitespace", 0) / max(accepted, 1),
        whitespace_hazard_share=total.get("hazard", 0) / max(accepted, 1),
        **_retained(total),
        coverage=_coverage(total),
        kinds=_slices(kinds, positions),
        scripts=_slices(scripts, positions),
    )


def _slices(parts: Mapping[str, Mapping[str, int]], num_positions: int) -> dict[str, SliceAudit]:
    found = sorted((-part["positions"], name) for name, part in parts.items() if part["positions"])
    return {
        name: SliceAudit(
            num_positions=-negative,
            share_of_positions=-negative / num_positions,
            num_teacher_tokens=parts[name].get("teacher_tokens", 0),
            **_retained(parts[name]),
            coverage=_coverage(parts[name]),
        )
        for negative, name in found
    }


def _retained(count: Mapping[str, int]) -> dict[str, float]:
    tokens = max(count.get("teacher_tokens", 0), 1)
    names = ("retained_shared", "retained_prefix", "retained_truncate")
    shares = {name: count.get(name, 0) / tokens for name in names}
    return shares | {"truncate_same_meaning": count.get("same_meaning", 0) / tokens}


def _coverage(count: Mapping[str, int]) -> dict[str, AlignerCoverage]:
    """Return what each aligner can use of the positions counted in `count`."""
    positions = count["positions"]

    def share(name: str) -> float:
        return count.get(name, 0) / positions

    def aligner(name: str, causes: dict[str, float], sound: str | None = None) -> AlignerCoverage:
        return AlignerCoverage(
            share_with_target=share(name),
            share_sound=share(sound or name),
            causes_without_target=lost | causes,
        )

    # Causes outside the aligners are named only where they occur; those of an aligner always.
    lost = {f"{REFUSED_TEXT}{name.removeprefix(REFUSED)}": share(name)
            for name in sorted(count) if name.startswith(REFUSED) and count[name]}  # fmt: skip
    lost |= {f"{IN_A_TEXT}{name.removeprefix(LOST)}": share(name)
             for name in sorted(count) if name.startswith(LOST) and count[name]}  # fmt: skip
    if count.get("left_out"):
        lost[LEFT_OUT] = share("left_out")
    spans = {INSIDE: share("inside"), BEYOND: share("beyond")}
    by_index = aligner("by_index", {NO_SUCH_ROW: share("without_row")}, "same_row")
    return {
        "prefix": aligner("prefix", {RESIDUAL: share("residual"), BEYOND: share("beyond")}),
        "shared": aligner("one_to_one", {ENDS_DIFFER: share("ends_differ"), **spans}),
        "projection": aligner("boundary", spans),
        "truncate": by_index,
        "pad": by_index,
    }
