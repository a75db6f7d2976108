"""Decides: which node an attempt goes to, and what its outcome means for that node. No I/O, no clock."""
