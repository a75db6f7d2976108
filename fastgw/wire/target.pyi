"""What a request may ask for, and of whom: for the compiled modules only, it has no name for Python."""
