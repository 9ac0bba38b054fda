"""Networks, recurrent networks and action distributions."""
