"""The plugins: one module each, named like APISIX's, run in the order of their priorities."""
