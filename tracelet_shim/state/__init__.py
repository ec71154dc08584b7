"""What was delivered where: kept on disk, so that a relay that dies, or a job that is killed, can be continued.

In the state directory (``.tracelet`` in the session's root directory, or ``TRACELET_STATE_DIR``) stand

    ledger.db            SQLite: sessions, event files, runs by tracker and how far each tracker is, which paths and trials were
                         told apart, events set aside or lost; while a session is open, or when it was killed, with ``-wal``
                         and ``-shm`` beside it
    <session>.index      one entry of 28 bytes a record: which record of which file, and a scalar's exact float64
    <session>.log        what the relay process and the trackers' SDKs had to say
    system/              event files of the system metrics (`tracelet_shim.provenance.system_metrics`); they stay
    <session>.what-ran   what is attached to a run that could not be opened yet (`tracelet_shim.provenance.what_ran`), msgpack
    <session>.hints      what calls knew that their protos lost (`tracelet_shim.bus.messages.Hint`), msgpack

Where a tracker stands is written in one transaction a batch, with all that has come meanwhile; what was told apart is written
before a tracker is told of it. A kill loses nothing that was committed. Index and hints are the log of the channel, not state:
they are appended to as records come, and stay files (`index.py`).

    place.py             where the directory is
    database.py          the tables, and how SQLite is opened
    ledger.py, rows.py   what is written and read
    session.py           one session's state, for all threads of its relay
    index.py             index and hints
    older.py             what older versions kept in files of their own

The data itself stays where it is, in the event files. Options and credentials are never written here. The files
of a session are removed when everything has been delivered; they stay as long as a tracker has refused something, which may
be offered to it again. All are 0600, in a directory that is 0700 if we have made it.
"""
