"""Tests run two at a time on small machines: each gets one thread, which is also repeatable."""

import os

# Before torch is imported, here and in the notebooks' kernels, which inherit the environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a C++ compiler the library says once that it is slower; the lessons print the same then.
os.environ.setdefault("PYTHONWARNINGS", "ignore:deformable attention falls back:RuntimeWarning")
