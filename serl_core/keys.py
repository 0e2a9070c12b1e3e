"""``serl keys``: CURVE keys for robot servers and learners that other machines reach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.keys import make_keys


@dataclass(frozen=True)
class Config:
    """Make the keys that a server demands on a network, and say which file goes where."""

    folder: Annotated[Path, tyro.conf.Positional]  # where the keys are made; private to this user
    client: str = "client"  # whose key to make: one name for each machine that may connect


def main(config: Config) -> int:
    """Make what is missing."""
    for path in make_keys(config.folder, config.client):
        print(f"made {path}")
    print(where(config.folder, config.client))
    return 0


def where(folder: Path, client: str) -> str:
    """Which file goes where. Folders of keys are mode 700, secrets (.key) 600; scp -p keeps that."""
    return "\n".join(
        [
            "robot PC and GPU PC (serl server, serl learner):",
            f"  {folder}/server.key  {folder}/clients/",
            f"the machine of {client} (serl actor, record, eval, stop, recover):",
            f"  {folder}/server.pub  {folder}/{client}.key" + (" as client.key" if client != "client" else ""),
            "Put them into a folder of their own there (chmod 700 FOLDER; chmod 600 FOLDER/*.key), and give",
            "--keys FOLDER to each command. Every .key is a secret: delete copies that no machine needs.",
        ]
    )
