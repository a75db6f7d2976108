"""Understands the dialect of OpenAI and its kin: values in, values out; no sockets, no clock."""
