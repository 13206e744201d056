"""ZenML pipelines: wiring only. Work is done by the steps, and by the core library below them."""
