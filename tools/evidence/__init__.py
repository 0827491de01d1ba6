"""The evidence: every method by every metric on trained networks, and what the papers claim."""
