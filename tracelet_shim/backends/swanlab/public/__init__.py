"""SwanLab through its public API: what 0.6 and 0.7 have, and a version to come whose core is not the one that we know.

    run      a run as the backend sees it; what it asks is answered by
    link     the writer, here (in a run of the user's) or in a process of its own: 0.6 and 0.7 have one run a process
    writer   the only code that logs into a run
    sdk      what the installed version has
    stored   the SDK's own log of a run: made to be written at once, and read again by later sessions
    watch    what the service has got
"""
