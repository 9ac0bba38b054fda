"""Every core is a device from the start, whichever test comes first; and a program is compiled once in a session."""

import os
import tempfile

# By the environment, so that the processes that tests start share it.
_CACHE = tempfile.TemporaryDirectory(prefix="purejaxppo-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import purejaxppo as pjp  # noqa: E402

pjp.use_all_cores()
