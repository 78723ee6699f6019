"""`python -m ddetr_edu` is `ddetr`."""

import sys

from ddetr_edu.cli.main import main

sys.exit(main())
