"""Settings of every test run: one thread, the same random cases each time."""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # small matrices on busy cores: threads cost more than they give

from hypothesis import HealthCheck, settings  # noqa: E402 -- the threads come first

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("repeatable", derandomize=True, **COMMON)
settings.register_profile("explore", **COMMON)  # pytest --hypothesis-profile explore: new cases on every run
settings.load_profile("repeatable")
