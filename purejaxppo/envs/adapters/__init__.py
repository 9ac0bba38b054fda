"""One file for each environment suite."""
