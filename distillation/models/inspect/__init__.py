"""What the two models are and can do, found out before any work: the probes and the preflight check."""
