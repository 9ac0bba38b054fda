"""How fast this machine trains, and how far that is from what it can do: `run`."""
