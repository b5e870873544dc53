"""Capture of the exchange's websocket as a Ray job: `lakehouse stream` on the cluster of the job.

ray job submit --working-dir . -- python jobs/stream_capture.py --market um \
    --symbols BTCUSDT,ETHUSDT --streams kline_1m,aggTrade

Options are those of `lakehouse stream`; without --address it captures in actors of the cluster that
runs the job. LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT, LAKEHOUSE_CATALOG__URI and
LAKEHOUSE_STREAM__SPOOL_FOLDER, must be set in the job's environment. It ends by `ray job stop`.
"""

import sys

from lakehouse_ray.cli.app import main

if __name__ == "__main__":
    main("stream", *sys.argv[1:])
