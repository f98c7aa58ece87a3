"""Models of other programs, in and out: one module for each format.

The module of a format has some of these functions:

    recognizes(path) -> bool            whether a file or folder looks like this format
    read(path) -> Imported              reads it, and writes nothing
    write(translator, request) -> str   writes a run in this format, and says what was written

`formats.py` names the modules, and `importing.py` makes a run directory of what was read.
"""
