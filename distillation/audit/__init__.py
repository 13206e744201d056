"""The audit of two tokenizers: what an alignment of theirs carries, counted, told and drawn."""
