"""A lake behind the query service: the methods of the local one, over HTTP (docs/sdk.md)."""
