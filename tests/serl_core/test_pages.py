"""The C library takes the request, or says that it cannot."""

import ctypes
import subprocess
import sys

from serl_core.pages import keep_freed_memory


def test_freed_blocks_are_reused_instead_of_fetched_again() -> None:
    """Guards the request: in a process that made it, a large block comes back at the same place without new pages."""
    if not keep_freed_memory():
        assert not hasattr(ctypes.CDLL(None), "mallopt")
        return
    code = (
        "import resource, numpy as np; from serl_core.pages import keep_freed_memory; keep_freed_memory()\n"
        "size = 40 << 20\n"
        "np.ones(size, np.uint8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): np.ones(size, np.uint8)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * (40 << 20) // 4096 // 2
