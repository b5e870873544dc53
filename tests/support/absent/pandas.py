"""Stands in the way of pandas, which clients of the exchange bring along: see tests/conftest.py."""

raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
