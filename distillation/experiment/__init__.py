"""An experiment: variants by seeds by controls; its plan, its search, its statistics, its result."""
