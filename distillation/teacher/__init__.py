"""Teachers: the live one that runs beside the student."""
