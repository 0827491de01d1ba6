"""What a check is made of: arbiter, backends, comparison, fingerprint, report."""
