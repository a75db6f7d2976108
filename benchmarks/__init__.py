"""fastgw beside its peers, on this machine: ``python -m benchmarks --help``, and README.md here."""
