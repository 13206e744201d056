"""What a teacher said, kept on disk: made once, replayed in every training."""
