"""Emit: from a legal network to files."""
