"""From what the user names to a captured graph."""
