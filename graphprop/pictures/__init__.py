"""Pictures in, maps of relevance out."""
