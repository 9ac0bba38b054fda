"""`python -m purejaxppo` is the command `purejaxppo`."""

import sys

from purejaxppo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
