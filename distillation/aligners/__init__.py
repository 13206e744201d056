"""Aligners: the teacher's next-token distribution as targets over the student's vocabulary."""
