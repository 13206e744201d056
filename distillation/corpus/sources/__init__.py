"""Sources of documents, one file each."""
