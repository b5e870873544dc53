"""Who may ask: API keys. Tokens, roles, masking, quotas and audit are not built yet."""
