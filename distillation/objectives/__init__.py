"""Objectives: divergences, the output layer in chunks, and the distillation objective over both."""
