"""``snnrun export``: a run's best weights for other programs."""
