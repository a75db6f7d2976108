"""When Python looks for garbage: rarely, because what serves requests leaves none that it must look for.

Every object of the gateway dies by its last reference (``tests/garbage_of_path.py`` holds us to it).
A search stops the event loop all the same, for as long as it takes to visit what is young: with ten
thousand connections that come and go, 40 ms at a time.
"""

import gc

# Objects that may be made beyond those that are freed, before the young ones are searched. A crowd of
# clients that come and go stays below it; one cycle per request is found after some thousand of them.
YOUNG = 50_000
# How many such searches until the next older ones are searched as well. Each is rare enough by itself.
OLDER = 2


def settle() -> None:
    """Take all that there is now for what stays, and search what comes after it rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDER)
