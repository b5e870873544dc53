"""Maintenance as a Ray job: `lakehouse maintain` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/maintenance.py

Options are those of `lakehouse maintain`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("maintain", *sys.argv[1:])
