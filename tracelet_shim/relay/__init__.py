"""The right half of the picture: decode, a worker for each tracker, retry, deadlines.

    dispatcher.py           messages in, replies out
    log.py                  the records, once for all trackers: batch.py, sizes.py (memory), event_files.py (what is read again)
    worker.py               one tracker's thread. What it does: opening.py, attachments.py, offers.py (what was refused before),
                            writing.py. How far it is: progress.py. How long it goes on: ending.py. What is said of it:
                            troubles.py, watch.py (a tracker that does not answer), said.py (what its SDK logged)
    restart.py, job.py      what an earlier relay of the session, an earlier start of the job has left
    metrics.py              the system metrics, taken like any other records
    own_random.py           SDKs that draw random numbers leave the program's alone
    __main__.py, _start.py  the process

What is kept on disk is in `tracelet_shim.state`.
"""

import logging

# Where the trackers live in the training process and the program has set up no logging, Python itself would print our
# warnings, tracebacks included, on standard error, one for each attempt to reach a dead server. The user is told of each
# kind of trouble once (`Session`); who wants more of it sets up logging. The relay process does.
logging.getLogger("tracelet_shim").addHandler(logging.NullHandler())
