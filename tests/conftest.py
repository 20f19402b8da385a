"""Set before torch is imported: small tensors on several OpenMP threads wait for each other most of
the time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DGLBACKEND", "pytorch")
