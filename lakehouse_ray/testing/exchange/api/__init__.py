"""The exchange's REST: market data of all three markets, its limits and its refusals."""
