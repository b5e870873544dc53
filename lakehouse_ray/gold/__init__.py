"""Not built yet: gold products, one file each."""
