"""Workflow 2 as a Ray job: `lakehouse update` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/realtime_update.py --market um --dataset klines

Options are those of `lakehouse update`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("update", *sys.argv[1:])
