"""ZenML steps, one a file: take the settings, call the core once, record, return."""
