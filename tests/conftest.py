"""What holds for all tests."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C reaches what the tests start: a shell starts its background jobs with SIGINT ignored, for good."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
