"""The query application on Ray Serve."""
