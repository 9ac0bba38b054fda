"""Every core is a device from the start, whichever test comes first; and a program is compiled once in a session."""

import tempfile

import jax

import purejaxppo as pjp

pjp.use_all_cores()
_CACHE = tempfile.TemporaryDirectory(prefix="purejaxppo-tests-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
