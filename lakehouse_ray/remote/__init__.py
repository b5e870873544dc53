"""A lake behind the query service: the methods of the local one, over HTTP (docs/sdk.md)."""

# Of one question, retries included.
TIMEOUT_S = 60.0
