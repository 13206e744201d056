"""What the two models and this machine can do, found out before any work: probes and the preflight check."""

from distillation.probing.architecture import (
    ArchitectureProbe,
    ExpertsProbe,
    probe_architecture,
    probe_experts,
)
from distillation.probing.attention import AttentionProbe, probe_attention
from distillation.probing.device import DeviceProbe, choose_device, choose_dtype, free_memory, probe_device
from distillation.probing.memory import MemoryEstimate, estimate_memory
from distillation.probing.preflight import check_pair
from distillation.probing.probe import ModelProbe, probe_model, probe_page, probe_table
from distillation.probing.vocabulary import VocabularyProbe, probe_vocabulary

__all__ = [
    "ArchitectureProbe",
    "AttentionProbe",
    "DeviceProbe",
    "ExpertsProbe",
    "MemoryEstimate",
    "ModelProbe",
    "VocabularyProbe",
    "check_pair",
    "choose_device",
    "choose_dtype",
    "estimate_memory",
    "free_memory",
    "probe_architecture",
    "probe_attention",
    "probe_device",
    "probe_experts",
    "probe_model",
    "probe_page",
    "probe_table",
    "probe_vocabulary",
]
