"""How good a student is: bits per byte, agreement with its teacher, samples, speed and size."""
