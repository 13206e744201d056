"""Losses: one file each, what they read, and their sum."""
