"""Not built yet: the query application on Ray Serve."""
