"""Bits per byte of the hand-made comparison, by variant and seed."""

SEEDS = (0, 1, 2)
BITS = {
    "text_only": (2.28, 2.30, 2.26),
    "truncate": (2.58, 2.61, 2.57),
    "prefix": (2.11, 2.12, 2.09),
    "shared": (2.115, 2.117, 2.094),
    "uld": (2.36, 2.39, 2.35),
}
