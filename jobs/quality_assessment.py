"""Quality assessment as a Ray job: `lakehouse quality` on the cluster that runs the job.

ray job submit --working-dir . -- python jobs/quality_assessment.py --market spot

Options are those of `lakehouse quality`. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and
LAKEHOUSE_CATALOG__URI, must be set in the job's environment.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("quality", *sys.argv[1:])
