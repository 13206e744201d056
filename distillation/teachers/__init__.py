"""Teachers: the live one that runs beside the student, and what is kept of one that ran before."""
