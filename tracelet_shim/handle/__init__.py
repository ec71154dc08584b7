"""What a session takes by itself, beside SummaryWriter: parameters, metrics, tables, files.

    methods.py    the methods, as the user sees them
    recorder.py   writes what they make into event files of the session's own, and hands it over
    records.py    numbers, texts, pictures and our own types as records
    tables.py     rows, columns and data frames as a table
    pictures.py   arrays, pictures and figures as PNG
    snapshots.py  files as they are now
    nothing.py    what stands for a session where there is none
"""
