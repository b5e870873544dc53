"""A crypto market-data lakehouse on Ray."""
