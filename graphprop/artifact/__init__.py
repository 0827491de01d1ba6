"""What lies on disk: the manifest, writing at once or not at all, running what was written."""
