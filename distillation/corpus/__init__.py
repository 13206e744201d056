"""Text to distil on: sources in order, the split, the data contract, and a corpus on disk."""
