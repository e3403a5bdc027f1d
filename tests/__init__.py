"""The tests. The variable below is set before numpy is loaded, here and in the processes that tests start."""

import os

# Step 2 of the tiny world takes 0.4 processor seconds with one BLAS thread, and 5 to 8 beside another worker of pytest
# with two: threads of OpenBLAS spin while they wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
