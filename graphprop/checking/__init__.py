"""The check that all backends compute the same: reference, backends, comparison, report."""
