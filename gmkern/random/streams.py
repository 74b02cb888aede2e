"""The stream numbers of the noise contract (docs/noise.md): one per purpose, so that two uses of a seed share nothing.

Numbers below 256 belong to the library, except USER; yours are USER and 256 to 2^31 - 1. ``csrc/common/noise.h`` has
the same table, and a test compares the two.
"""

USER = 0
TOKEN = 1  # the choice of a token
KICK = 2  # an integrator's random kicks
LATENT = 3  # latent vectors
CONTEXT = 4  # the draw of training points
GIBBS = 5  # Gibbs sampling
INITIAL = 6  # initial clouds
EXPLORE = 7  # epsilon exploration
PROJECTION = 8  # random projections
BOOTSTRAP = 9  # bootstrap resampling

TAIL = 1 << 31  # set in a stream's number for the second words of tails; no user can name such a stream
