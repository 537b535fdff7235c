"""Settings of every test run: one thread, the same random cases each time; and a user's folder."""

from __future__ import annotations

import os
import sys

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # small matrices on busy cores: threads cost more than they give

# ruff: noqa: E402 -- the threads come first
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("repeatable", derandomize=True, **COMMON)
settings.register_profile("explore", **COMMON)  # pytest --hypothesis-profile explore: new cases on every run
settings.load_profile("repeatable")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: models.py with the module that it imports, and a picture of 8×8 pixels."""
    from tests.command import MODELS

    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "neighbour.py").write_text("SLOPE = 0.2\n")
    (tmp_path / "faulty.py").write_text("import nothing_of_that_name\n")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return tmp_path
