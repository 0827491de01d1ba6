"""Compiled directories: the manifest, writing all or nothing, running what was written."""
