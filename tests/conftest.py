"""What every test needs before it starts."""

import os

import pytest
import torch

pytest.register_assert_rewrite("support")

from support.torchvision_schemas import define_torchvision_operators  # noqa: E402

define_torchvision_operators()

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers are the parallelism: threads within each would only get in each other's way
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Begin every test with the same random numbers."""
    torch.manual_seed(0)
    return 0
