"""The algorithm, from config to agent."""
