"""Not built yet: pure functions on frames (indicators, resampling, gaps, quality)."""
