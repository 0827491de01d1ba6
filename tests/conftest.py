"""What every test needs before it starts."""

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torchvision_schemas import define_torchvision_operators

pytest.register_assert_rewrite("support")

from support.durations import mark_slow  # noqa: E402
from support.processes import in_this_process  # noqa: E402

define_torchvision_operators()

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers are the parallelism: threads within each would only get in each other's way
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Begin every test with the same random numbers."""
    torch.manual_seed(0)
    return 0


@pytest.fixture
def fresh_process() -> None:
    """Run generated modules in processes of their own, as for users, despite `same_process`."""


@pytest.fixture
def same_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run generated modules in this process, which is faster."""
    with nullcontext() if "fresh_process" in request.fixturenames else in_this_process():
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fast: in the fast selection, however long it takes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what took long as slow, before pytest selects by marks."""
    mark_slow(items)
