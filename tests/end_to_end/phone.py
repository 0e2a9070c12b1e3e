"""A person with a phone: what the page that an actor serves is asked."""

from __future__ import annotations

import json
import re
import urllib.request

from observed import wait_for

from serl_core.processes import Child


class Phone:
    """The page that an actor serves, without a browser."""

    def __init__(self, actor: Child) -> None:
        self.actor = actor
        wait_for(lambda: self._found() is not None, 60.0)
        found = self._found()
        assert found is not None
        self.address, self.token = found.groups()

    def _found(self) -> re.Match[str] | None:
        self.actor.check()
        return re.search(r"(http://127\.0\.0\.1:\d+/)#(\S+)", self.actor.log.read_text())

    def ask(self, path: str, event: str | None = None) -> dict:
        data = None if event is None else json.dumps({"event": event}).encode()
        request = urllib.request.Request(self.address + path, data, {"X-Token": self.token})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
