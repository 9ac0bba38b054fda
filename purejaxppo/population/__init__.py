"""Training many runs at once: populations, sweeps and searches, their devices, memory and results."""
