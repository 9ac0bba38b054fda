"""Helpers below everything else: errors, validation, files, locks, devices, pytrees, packs, exact sums."""
