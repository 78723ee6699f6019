"""Tests and lessons are run without touching the files of whoever runs them."""

import atexit
import os
import shutil
import tempfile

# The checks of exercises keep a learner's progress in the user's data folder. This is inherited by
# pytest's workers, which must not make folders of their own, and by the notebooks' kernels.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="ddetr-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_DATA_HOME"], ignore_errors=True)
