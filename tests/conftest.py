"""Every core is a device from the start, whichever test comes first."""

import purejaxppo as pjp

pjp.use_all_cores()
