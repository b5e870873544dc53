"""Gold products, one file each: rows of silver in, rows of a table of `model/gold.py` out."""
