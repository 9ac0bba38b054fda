"""Variants of PPO to copy, one file each. Run one with `python -m purejaxppo.examples.NAME`."""
