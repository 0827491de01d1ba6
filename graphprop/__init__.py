"""graphprop."""
