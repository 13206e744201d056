"""What a pipeline writes into MLflow: runs, tags, figures, the final record."""
