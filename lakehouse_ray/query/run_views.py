"""Runs of schedules, one row each, from the log of their events."""

from __future__ import annotations

from lakehouse_ray.model.schedules import ENDED, RUN_LOG

RUNS_DOC = (
    "Runs of schedules, one row each: what was planned, what became of it (`state`: requested, started, "
    "succeeded, failed, timed_out, interrupted; skipped: planned times that were passed over)."
)
_ENDED = ", ".join(f"'{state}'" for state in ENDED)
# A run begins once and ends once, so its states have an order whatever clocks said.
RUNS = f"""
SELECT run_id,
       any_value(schedule) AS schedule,
       any_value(workflow) AS workflow,
       any_value(parameters) AS parameters,
       any_value("trigger") AS "trigger",
       min(planned_at) AS planned_at,
       max(planned_last) AS planned_last,
       max(times) AS times,
       max(attempt) AS attempt,
       arg_max(state, CASE state WHEN 'requested' THEN 0 WHEN 'started' THEN 1 ELSE 2 END) AS state,
       max("at") FILTER (state = 'started') AS started_at,
       max("at") FILTER (state IN ({_ENDED})) AS ended_at,
       max(duration_s) AS duration_s,
       max(exit_code) AS exit_code,
       any_value(error) AS error,
       max(place) AS place,
       arg_max(runner, sequence) AS runner
FROM {RUN_LOG.name}
WHERE run_id IS NOT NULL
GROUP BY run_id
"""
