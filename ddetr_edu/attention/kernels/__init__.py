"""The compiled kernels: argument checks, compiling, loading and registration with torch."""
