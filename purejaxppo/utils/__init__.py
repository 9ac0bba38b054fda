"""Helpers below everything else: errors, validation, files, locks, devices, exact sums."""
