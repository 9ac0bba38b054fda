"""Many runs at once: where they run, and what their results amount to."""
