"""Many programs on many machines, through Redis Streams.

address.py              where Redis is, and the password
keys.py, scripts.py     what is kept there of a session; what is changed under a lease
shipper.py, elsewhere.py    the program's side: the relay process, without any SDK, appends the records
stream.py, ledger.py, state.py    the collector's side: records and ledger, as the relay's workers know them
delivery.py, host.py    one session; a process that serves many
collector.py            `tracelet-shim collect`: starts the hosts
overview.py             what `tracelet-shim status --fleet` and Prometheus show
"""
