"""Not built yet: keys, tokens, roles, masking, quotas and audit."""
