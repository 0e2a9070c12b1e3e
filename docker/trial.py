"""A task for the fake arm, to try both computers of a lab without a robot: nothing can be learnt from its pictures.

The fake arm's limits are narrower than those of the tasks in ``examples/tasks``, except ``reach``, which has no camera.
"""

from robot_servers.interface import Limits
from serl_core.config import StartPose, Task

TASK = Task(
    name="trial",
    scene="pick_cube",  # what `serl server` calls a simulated scene unless it is told
    max_steps=50,
    start=StartPose((0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0), noise=(0.03, 0.03, 0.02)),
    limits=Limits((0.4, -0.1, 0.2), (0.6, 0.1, 0.4)),
    axes=("x", "y", "z"),
)
