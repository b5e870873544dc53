"""Which tests stay together in one process when several run them; no test is timed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Commands, workers and services find no pandas, as where only the package is installed: pyarrow would
# load it for half a second in each of them.
_ABSENT = str(Path(__file__).parent / "support" / "absent")
_paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([_ABSENT, *_paths]))
# Processes of xdist inherit it, and run the clients.
sys.path[:] = [path for path in sys.path if path != _ABSENT]

# Until a command sets its logs up: structlog's default draws an error with rich, and all the variables of
# all its frames, for four seconds of a CPU.
_processors = structlog.get_config()["processors"]
_console = structlog.dev.ConsoleRenderer(
    colors=False, exception_formatter=structlog.dev.plain_traceback
)
structlog.configure(processors=[*_processors[:-1], _console])

# Other examples are tried each time; many at once by `pytest --hypothesis-profile many`.
for name, examples in (("tests", 40), ("many", 1000)):
    settings.register_profile(
        name,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """A command run in this process sets up its logs, which would go on to a stderr that is gone."""
    config = structlog.get_config()
    yield
    structlog.configure(**config)


class _Together(LoadFileScheduling):
    """A file's tests share its fixtures. Those of chaos share their stages as well; they mostly
    wait, which leaves the cores to the tests beside them. Those that use Ray share one: each takes four
    seconds of a CPU to start, and where it idles, half a minute of it in the time that all tests take."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if file.startswith("tests/chaos/"):
            return "chaos"
        return "ray" if _uses_ray(self.config.rootpath / file) else file


@functools.cache
def _uses_ray(file: Path) -> bool:
    return "ray_session" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    # A group by mark is what xdist has for this; pytest 9.2 does not let it (3.8) name one.
    return _Together(config, log) if config.getoption("dist") == "loadfile" else None
