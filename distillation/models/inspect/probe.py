"""One model probed in full: tokenizer, attention, architecture, experts, device; as data, a terminal table
and a page.

Everything is learnt from the configuration, the tokenizer and tiny random models, so a probe of a
30-billion-parameter teacher takes seconds and no more memory than one of the embedded pair. Invariant: a
probe loads no weights and prints nothing.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from distillation.config import ModelReference
from distillation.models.decision import attention_of
from distillation.models.device import DeviceProbe, choose_dtype, probe_device
from distillation.models.inspect.architecture import (
    ArchitectureProbe,
    ExpertsProbe,
    build_on_meta,
    probe_architecture,
    probe_experts,
)
from distillation.models.inspect.attention import AttentionProbe, check_attention, probe_attention
from distillation.models.inspect.vocabulary import VocabularyProbe, probe_vocabulary
from distillation.models.memory_estimate import BYTES_PER_NUMBER, readable_bytes
from distillation.quiet import quiet_libraries

if TYPE_CHECKING:
    from rich.table import Table


class ModelProbe(BaseModel):
    """What one model of the pair and this machine can do together."""

    model_config = ConfigDict(frozen=True)

    role: Literal["teacher", "student"]
    """`teacher` or `student`."""
    path: str
    """The setting's value: a directory, a hub name, or `sample`."""
    vocabulary: VocabularyProbe
    architecture: ArchitectureProbe
    attention: AttentionProbe
    experts: ExpertsProbe | None
    """None: every layer is dense."""
    device: DeviceProbe
    attention_chosen: str
    """The implementation that it is trained and measured with; a loss over attention maps takes eager."""
    weights_bytes: int
    """Memory of the weights in the chosen number format."""

    @property
    def fits(self) -> bool:
        """Whether the weights alone fit into what is free; `estimate_memory` answers for a training step."""
        return self.weights_bytes < self.device.free_bytes


def probe_model(
    reference: ModelReference,
    role: Literal["teacher", "student"],
    *,
    device: str = "auto",
) -> ModelProbe:
    """Return what the model of `reference` is and what works here; `device` is the value of `models.device`.

    Raises:
        ModelError: configuration or tokenizer are missing or unusable, or the wanted attention does not
            work here.
        SettingsError: the device or number format asked for is not to be had.
    """
    from distillation.models.load import load_tokenizer, read_config

    trust = reference.trust_remote_code_of is not None
    with quiet_libraries():
        config = read_config(reference, role)
    model = build_on_meta(config, trust_remote_code=trust)
    architecture = probe_architecture(model)
    found = probe_device(device, reference.dtype, training=role == "student")
    attention = probe_attention(
        config,
        device=found.device,
        # A student is in float32, its products on an accelerator are not.
        dtype=choose_dtype(reference.dtype, found.device) if found.device != "cpu" else "float32",
        trust_remote_code=trust,
    )
    check_attention(reference.attention, attention, name=f"models.{role}.attention")
    return ModelProbe(
        role=role,
        path=reference.path,
        vocabulary=probe_vocabulary(load_tokenizer(reference, role), architecture.num_output_rows),
        architecture=architecture,
        attention=attention,
        experts=probe_experts(model),
        device=found,
        attention_chosen=attention_of(reference, role),
        weights_bytes=architecture.num_parameters * BYTES_PER_NUMBER[found.dtype],
    )


def probe_rows(probes: Sequence[ModelProbe]) -> list[tuple[str, list[str]]]:
    """Return the lines of the comparison: what is compared, and one value a probe."""
    return [
        (label, [make(probe) for probe in probes])
        for label, make in (
            ("model", lambda probe: probe.path),
            ("architecture", lambda probe: probe.architecture.model_type),
            ("parameters", _parameters),
            ("layers × width", _layers),
            ("heads (keys)", _heads),
            ("experts", _experts),
            ("tokenizer", _tokenizer),
            ("output rows without a token", _output_rows),
            ("bytes that no token writes", _missing_bytes),
            ("normaliser", lambda probe: probe.vocabulary.normalizer or "none"),
            ("digits", _digits),
            ("special tokens", _specials),
            ("adds by itself", _added),
            ("chat template", lambda probe: "yes" if probe.vocabulary.has_chat_template else "no"),
            ("attention that works", _attention),
            ("attention maps", lambda probe: probe.attention.maps_problem or "complete with eager"),
            ("device", _device),
            ("weights in memory", _weights),
        )
    ]


def probe_table(probes: Sequence[ModelProbe]) -> Table:
    """Return the comparison as a table for the terminal, one column a probe."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Models and machine", title_justify="left")
    table.add_column("")
    for probe in probes:
        table.add_column(probe.role, overflow="fold")
    for label, values in probe_rows(probes):
        table.add_row(label, *(Text(value) for value in values))
    return table


def probe_page(probes: Sequence[ModelProbe]) -> str:
    """Return the comparison as an HTML fragment: one plain table with header cells for both directions."""
    head = "".join(f'<th scope="col">{html.escape(probe.role)}</th>' for probe in probes)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{html.escape(value)}</td>" for value in values)
        + "</tr>"
        for label, values in probe_rows(probes)
    )
    return (
        '<section aria-labelledby="probes"><h2 id="probes">Models and machine</h2>\n<table>'
        "<caption>What each model is, and what works on this machine</caption>\n"
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></section>"
    )


def _parameters(probe: ModelProbe) -> str:
    sizes = probe.architecture
    text = f"{sizes.num_parameters:,}"
    if sizes.num_active_parameters != sizes.num_parameters:
        text += f" ({sizes.num_active_parameters:,} a token)"
    return text + (", tied embeddings" if sizes.tied_embeddings else "")


def _layers(probe: ModelProbe) -> str:
    return f"{probe.architecture.num_layers} × {probe.architecture.width}"


def _heads(probe: ModelProbe) -> str:
    sizes = probe.architecture
    return f"{sizes.num_heads} ({sizes.num_key_value_heads}) of width {sizes.head_width}"


def _experts(probe: ModelProbe) -> str:
    if probe.experts is None:
        return "none"
    found = probe.experts
    return (
        f"{found.num_experts_per_token} of {found.num_experts} "
        f"in {len(found.sparse_layers)} of {probe.architecture.num_layers} layers"
    )


def _tokenizer(probe: ModelProbe) -> str:
    return f"{probe.vocabulary.family}, {probe.vocabulary.size:,} tokens"


def _output_rows(probe: ModelProbe) -> str:
    vocabulary = probe.vocabulary
    text = f"{vocabulary.num_rows_without_token:,} of {vocabulary.num_output_rows:,}"
    beyond = vocabulary.num_tokens_without_row
    return f"{text}; {beyond:,} tokens without a row" if beyond else text


def _missing_bytes(probe: ModelProbe) -> str:
    missing = probe.vocabulary.missing_bytes
    return "writes characters, not bytes" if missing is None else f"{len(missing)} of 256"


def _digits(probe: ModelProbe) -> str:
    group = probe.vocabulary.digit_group
    if group is None:
        return "not split"
    return "split one by one" if group == 1 else f"split after {group}"


def _specials(probe: ModelProbe) -> str:
    named = [token for token in probe.vocabulary.specials if token.role != "other"]
    text = ", ".join(f"{token.role} {token.text} = {token.id}" for token in named) or "none"
    num_others = len(probe.vocabulary.specials) - len(named)
    return f"{text}; {num_others} more" if num_others else text


def _added(probe: ModelProbe) -> str:
    vocabulary = probe.vocabulary
    parts = [("a space before", vocabulary.adds_prefix_space), ("BOS", vocabulary.adds_bos)]
    named = [name for name, is_added in (*parts, ("EOS", vocabulary.adds_eos)) if is_added]
    return ", ".join(named) or "nothing"


def _attention(probe: ModelProbe) -> str:
    names = [entry.name for entry in probe.attention.implementations if entry.works]
    problem = probe.attention.problem(probe.attention_chosen)
    return f"{', '.join(names)}; taken: {probe.attention_chosen}" + (f", though {problem}" if problem else "")


def _device(probe: ModelProbe) -> str:
    text = f"{probe.device.device} ({probe.device.name}), {probe.device.dtype}"
    return f"{text}; {probe.device.fallback_reason}" if probe.device.fallback_reason else text


def _weights(probe: ModelProbe) -> str:
    free = readable_bytes(probe.device.free_bytes)
    return f"{readable_bytes(probe.weights_bytes)} of {free} free" + ("" if probe.fits else ": do not fit")
