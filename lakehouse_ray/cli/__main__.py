"""`python -m lakehouse_ray.cli …` is `lakehouse …`, wherever the command is not on the path."""

from __future__ import annotations

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main()
