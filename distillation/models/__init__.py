"""Models: files on disk, loading, the output head, device, memory, and what a look at one finds."""
