"""Variants of PPO to copy, one file each: run one with `python -m purejaxppo.examples.NAME`."""
