"""Compare runs: settings, scores, costs and failures."""
