"""What the notebooks draw: the numbers behind every picture, the pictures, and the sliders.

One concept per file, numbers first: `matrices`, `convergence`, `energies`, `plane`, `own_matrix`
(notebook 1), `gradients`, `directions`, `candidates` (2), `landscapes`, `descent` (3), `own_norm`,
`small_model` (4). `timing` measures, `pictures` holds what all pictures share, `*_pictures` draw,
`controls` makes sliders of them.
"""

import os

# Threads of LAPACK wait for each other in a loop: on cores that are busy, a small singular value
# decomposition then takes seconds instead of milliseconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
