"""Derived tables as a Ray job: `lakehouse build` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/build_gold.py daily --market spot

Options are those of `lakehouse build`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("build", *sys.argv[1:])
