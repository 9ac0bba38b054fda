"""The host's side of a run: presets, the run folder, checkpoints, and what is shown while it trains."""
