"""Whether a configuration makes a model that reads ahead, before its weights are there.

An encoder such as a BERT has an output layer for each token and loads as a language model, but what it says
after a token depends on the tokens behind it. Names do not tell: `is_decoder`, `is_causal` and the like
differ by family. So a small model of the configuration, with random weights, is asked. The true weights are
asked as well when they are loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def reads_ahead(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> bool:
    """Return whether a small model of `config` reads later tokens; False where none can be run here."""
    import torch

    from distillation.models.inspect.attention import reference_model
    from distillation.models.lm_head import reads_later_tokens
    from distillation.quiet import quiet_libraries

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            _, model, _ = reference_model(config, trust_remote_code)
            return reads_later_tokens(model)
        except Exception:  # an architecture that cannot be made small; its weights are asked later
            return False
