"""The ``fastgw`` command.

``commands`` declares every command and flag and imports nothing heavy, so ``fastgw version`` and
``--help`` cost a few milliseconds over Python's own start; the work is in the modules beside it.
"""

from fastgw.cli.commands import main

__all__ = ["main"]
