"""The exchange's own API, answered from the lake: for clients that were written for Binance."""
