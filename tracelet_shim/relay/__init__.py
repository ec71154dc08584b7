"""The right half of the picture: decode, a worker for each tracker, retry, deadlines."""

import logging

# Where the trackers live in the training process and the program has set up no logging, Python itself would print our
# warnings, tracebacks included, on standard error, one for each attempt to reach a dead server. The user is told of each
# kind of trouble once (`Session`); who wants more of it sets up logging. The relay process does.
logging.getLogger("tracelet_shim").addHandler(logging.NullHandler())
