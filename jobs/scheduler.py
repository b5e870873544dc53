"""The runner of schedules as a Ray job: `lakehouse schedule run` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/scheduler.py

Options are those of `lakehouse schedule run`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment, and LAKEHOUSE_SCHEDULES unless the working
folder has a lakehouse.toml. Of several such jobs one keeps to the schedules.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("schedule", "run", *sys.argv[1:])
