"""Workflow 1 as a Ray job: `lakehouse ingest` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/bulk_ingestion.py --market spot --dataset klines \
    --interval 1m --start 2024-01 --end 2024-07

Options are those of `lakehouse ingest`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("ingest", *sys.argv[1:])
