"""Whether tests that need pictures run: skipped on a machine that cannot render, but not in CI."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from robot_servers.cameras.simulated import RenderingUnavailable, choose_backend

MUST_RENDER = "SERL_TESTS_MUST_RENDER"  # set by .ci/run


def pictures_or_skip(environ: Mapping[str, str], choose: Callable[[str], str] = choose_backend) -> None:
    """Skips where nothing can render, naming the Debian package that would help; fails there if CI says it must not."""
    try:
        choose(environ.get("MUJOCO_GL", "").lower())
    except RenderingUnavailable as error:
        if environ.get(MUST_RENDER):
            pytest.fail(f"{MUST_RENDER} is set, and pictures cannot be rendered here: {error}", pytrace=False)
        pytest.skip(str(error))
